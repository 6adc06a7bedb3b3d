//! `ncp audit reindex` as an operator runs it, on an index that is damaged, and on one that is gone.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ncp_audit::server::{Config, Database, Repository, Sqlite, load};
use ncp_proto::audit::{Facts, Record};

const RECORDS: u64 = 1500;

fn configuration(dir: &Path) -> PathBuf {
    let secret = dir.join("audit.key");
    std::fs::write(&secret, "cd".repeat(32)).expect("writes");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    // The command opens no listener, so that no certificate is read.
    std::fs::write(dir.join("unread.pem"), "").expect("writes");
    let file = dir.join("audit.toml");
    let text = "feed = \"127.0.0.1:1\"\nquery = \"127.0.0.1:2\"\nadmin = \"127.0.0.1:3\"\ncertificate = \"unread.pem\"\n\
                key = \"unread.pem\"\nanchors = \"unread.pem\"\ndata_dir = \"data\"\nkey_file = \"audit.key\"\n\
                source = \"repository\"\nenterprise_site = \"NO\"\nwriters = { ncp-no = \"ncp-no\" }\n";
    std::fs::write(&file, text).expect("writes");
    file
}

/// What the index knows of a record it reads from its message.
fn message(seq: u64) -> Vec<u8> {
    let object = |id: &str, kind: &str, role: &str, code: &str| {
        format!(
            "<ParticipantObjectIdentification ParticipantObjectID=\"{id}\" ParticipantObjectTypeCode=\"{kind}\" \
             ParticipantObjectTypeCodeRole=\"{role}\"><ParticipantObjectIDTypeCode csd-code=\"{code}\"/>\
             </ParticipantObjectIdentification>"
        )
    };
    let patient = object(&format!("{}^^^&amp;2.999.1&amp;ISO", seq % 7), "1", "1", "2");
    let study = object(&format!("2.999.{seq}"), "2", "3", "110180");
    let exchange = object(&format!("exchange-{}", seq / 2), "2", "26", "ncp-exchange");
    format!(
        "<AuditMessage><EventIdentification EventDateTime=\"2026-11-23T09:14:11Z\" EventOutcomeIndicator=\"0\">\
         <EventID csd-code=\"110104\"/><EventTypeCode csd-code=\"RAD-75\"/><PurposeOfUse csd-code=\"TREATMENT\"/>\
         </EventIdentification><ActiveParticipant UserID=\"user\" UserIsRequestor=\"true\"><RoleIDCode csd-code=\"221\"/>\
         </ActiveParticipant><AuditSourceIdentification AuditSourceID=\"ncp-no\"/>{patient}{study}{exchange}</AuditMessage>"
    )
    .into_bytes()
}

fn record(seq: u64) -> Record {
    let facts = Facts { role: "responder".into(), country: "FI".into(), ..Facts::default() };
    let message = message(seq);
    let event_time_us = 1_790_000_000_000_000 + seq as i64;
    Record {
        epoch: 1,
        seq,
        event_time_us,
        media_type: "application/xml".into(),
        message,
        facts: Some(facts),
        ..Record::default()
    }
}

fn rows(config: &Config) -> Vec<String> {
    // As the command left it: opening a repository would first index what lacks.
    let database = Sqlite::open(&config.data_dir.join("index.sqlite")).expect("opens");
    ncp_audit::server::Index::open(Box::new(database)).expect("opens").dump().expect("dumps")
}

fn reindex(file: &Path) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_ncp"));
    assert!(program.with_file_name("ncp-audit").is_file(), "`cargo build -p ncp-audit` comes first");
    let output = Command::new(program).args(["audit", "reindex", "--config"]).arg(file).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_index_made_again_is_the_index_before() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = configuration(dir.path());
    let config = load(&file).unwrap_or_else(|problems| panic!("{problems:?}"));
    let mut repository = Repository::open(&config).expect("opens");
    for first in (1..=RECORDS).step_by(100) {
        repository.keep("ncp-no", (first..first + 100).map(record).collect()).expect("keeps");
    }
    // One that came twice, one that is refused: its number was given before.
    repository.keep("ncp-no", vec![record(7)]).expect("keeps");
    repository.keep("ncp-no", vec![Record { message: message(9), ..record(8) }]).expect("keeps");
    drop(repository);
    let before = rows(&config);
    assert_eq!(before.iter().filter(|row| row.contains("\"responder\"")).count() as u64, RECORDS);

    let index = config.data_dir.join("index.sqlite");
    let mut database = Sqlite::open(&index).expect("opens");
    let damage = "DELETE FROM token WHERE record % 3 = 0; UPDATE record SET country = 'XX' WHERE seq % 5 = 0; \
                  DELETE FROM record WHERE seq BETWEEN 200 AND 400; DELETE FROM rejected";
    database.batch(damage).expect("damages");
    drop(database);
    assert!(rows(&config) != before, "damaged");
    let said = reindex(&file);
    assert!(said.ends_with(" records indexed\n"), "{said}");
    assert!(rows(&config) == before, "made again over a damaged one");

    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = std::fs::remove_file(config.data_dir.join(name));
    }
    reindex(&file);
    assert!(rows(&config) == before, "made again from nothing");

    // A configuration that is not there is an error of the command.
    let program = Path::new(env!("CARGO_BIN_EXE_ncp"));
    let absent = Command::new(program).args(["audit", "reindex", "--config", "/nowhere"]).output().expect("runs");
    assert!(!absent.status.success());
}
