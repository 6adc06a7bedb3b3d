//! SE-19: the drawing process is confined before it reads anything, and a decoder inside it can do nothing but decode.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fs::{File, read, read_to_string};
use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use dicom_core::value::PixelFragmentSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use ncp_gateway::responding::orcd::confined::{Unconfined, confine, overstepped};
use ncp_gateway::responding::orcd::draw::{COMMAND, NotDrawn, picture};
use rustix::process::{Pid, PidfdFlags, Signal, Uid, getpid, getppid, kill_process, pidfd_open, test_kill_process};

/// What the test decoder tries, in a process of its own.
const ATTEMPT: &str = "NCP_TEST_ATTEMPT";
/// Set where it is confined first.
const CONFINED: &str = "NCP_TEST_CONFINED";

type Attempt = fn() -> bool;

/// Each is done by a process that is not confined.
const ATTEMPTS: [(&str, Attempt); 12] = [
    ("socket", || UdpSocket::bind("127.0.0.1:0").is_ok()),
    ("socketpair", || UnixStream::pair().is_ok()),
    ("open", || File::open("/proc/self/status").is_ok()),
    ("fork", || Command::new("/bin/true").status().is_ok_and(|status| status.success())),
    ("exec", || {
        let _ = Command::new("/bin/echo").arg("done").exec();
        false
    }),
    ("thread", || std::thread::Builder::new().spawn(|| ()).is_ok()),
    ("kill another", || test_kill_process(getppid().unwrap_or(Pid::INIT)).is_ok()),
    ("kill itself softly", || kill_process(getpid(), Signal::CONT).is_ok()),
    ("look into another", || {
        let another = getppid().unwrap_or(Pid::INIT);
        pidfd_open(another, PidfdFlags::empty()).is_ok()
    }),
    ("become somebody", || {
        let user = Uid::from_raw(rustix::process::getuid().as_raw());
        rustix::thread::set_thread_res_uid(user, user, user).is_ok()
    }),
    ("write into what it reads", || rustix::io::write(std::io::stdin(), b"x").is_ok()),
    ("executable memory", || memmap2::MmapMut::map_anon(4096).is_ok_and(|memory| memory.make_exec().is_ok())),
];

/// The test decoder; it does nothing unless [`attempt`] starts it.
#[test]
fn se_19_hostile_decoder() {
    let Ok(name) = std::env::var(ATTEMPT) else { return };
    let (_, attempt) = ATTEMPTS.iter().find(|(known, _)| *known == name).expect("an attempt");
    if std::env::var(CONFINED).is_ok() {
        confine().expect("confines itself");
    }
    println!("begins");
    println!("{}", if attempt() { "done" } else { "failed" });
}

fn attempt(name: &str, confined: bool) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["se_19_hostile_decoder", "--exact", "--nocapture", "--test-threads=1"]).env(ATTEMPT, name);
    if confined {
        command.env(CONFINED, "");
    }
    // It could be written to.
    let (input, _other_end) = UnixStream::pair().expect("a pair");
    command.stdin(std::os::fd::OwnedFd::from(input)).output().expect("runs")
}

#[test]
fn se_19_what_a_decoder_has_no_need_of_ends_it() {
    for (name, _) in ATTEMPTS {
        let free = String::from_utf8(attempt(name, false).stdout).expect("text");
        assert!(free.contains("done"), "{name} is possible without confinement: {free}");
        let out = attempt(name, true);
        let said = String::from_utf8(out.stdout).expect("text");
        assert!(said.contains("begins") && !said.contains("done"), "{name}: {said}");
        assert!(overstepped(out.status), "{name} ends the process: {:?}", out.status);
    }
}

fn drawing() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ncp-gateway"));
    command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A field of a file under /proc.
fn field(child: &Child, file: &str, name: &str) -> Vec<String> {
    let text = read_to_string(format!("/proc/{}/{file}", child.id())).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn se_19_the_drawing_process_is_confined_before_it_reads() {
    let mut child = drawing().spawn().expect("starts");
    // More than a pipe takes: when this is written, the process has read, and so it is confined.
    child.stdin.as_mut().expect("a pipe").write_all(&vec![0; 512 << 10]).expect("is read");
    for (name, value) in [
        ("Seccomp:", "2"),
        ("NoNewPrivs:", "1"),
        ("Threads:", "1"),
        ("CapInh:", "0000000000000000"),
        ("CapPrm:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        ("CapAmb:", "0000000000000000"),
    ] {
        assert_eq!(field(&child, "status", name), [value], "{name}");
    }
    assert!(field(&child, "status", "Uid:").iter().all(|user| user != "0"), "no user of it is root");
    for (name, most) in [
        ("Max processes", "0"),
        ("Max open files", "0"),
        ("Max file size", "0"),
        ("Max core file size", "0"),
        ("Max cpu time", "15"),
        ("Max address space", "2147483648"),
    ] {
        assert_eq!(field(&child, "limits", name)[..2], [most, most], "{name}");
    }
    let out = child.wait_with_output().expect("ends");
    assert_eq!(NotDrawn::of_exit_code(out.status.code()), NotDrawn::Unsound, "zeros are no object");
}

/// In a user namespace with one user, who is root, there is nobody else to become.
#[test]
fn se_19_a_drawing_process_that_would_stay_root_reads_nothing() {
    let alone = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", program]).stdin(Stdio::null());
        command
    };
    if !alone("true").status().is_ok_and(|status| status.success()) {
        eprintln!("not tested: this system allows no user namespaces");
        return;
    }
    let out = alone(env!("CARGO_BIN_EXE_ncp-gateway")).arg(COMMAND).output().expect("runs");
    assert_eq!(NotDrawn::of_exit_code(out.status.code()), NotDrawn::Unconfined(Unconfined::Root));
    let said = String::from_utf8(out.stderr).expect("text");
    assert!(said.contains("start the gateway as an unprivileged user"), "{said}");
}

fn fixture(file: &str) -> Vec<u8> {
    read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/dicom").join(file)).expect("a fixture")
}

/// An object whose pixels are one JPEG Baseline stream of 160 rows and 200 columns.
fn jpeg(file: &str, samples: u16, photometric: &str) -> Vec<u8> {
    let mut object = InMemDicomObject::new_empty();
    let text = |tag: Tag, vr: VR, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
    object.put(text(tags::SOP_CLASS_UID, VR::UI, "1.2.840.10008.5.1.4.1.1.7"));
    object.put(text(tags::SOP_INSTANCE_UID, VR::UI, "2.25.19"));
    object.put(text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric));
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, samples),
        (tags::ROWS, 160),
        (tags::COLUMNS, 200),
        (tags::BITS_ALLOCATED, 8),
        (tags::BITS_STORED, 8),
        (tags::HIGH_BIT, 7),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
    if samples > 1 {
        object.put(DataElement::new(tags::PLANAR_CONFIGURATION, VR::US, PrimitiveValue::from(0u16)));
    }
    let stream = fixture(&PathBuf::from("jpeg").join(file).to_string_lossy());
    let fragments = PixelFragmentSequence::new_fragments(vec![stream]);
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, fragments));
    let meta = FileMetaTableBuilder::new().transfer_syntax("1.2.840.10008.1.2.4.50");
    let mut bytes = Vec::new();
    object.with_meta(meta).expect("a meta table").write_all(&mut bytes).expect("writes");
    bytes
}

/// The JPEG decoder starts threads for streams of this width unless it has a pool of one.
#[test]
fn se_19_what_a_decoder_needs_is_left_to_it() {
    for (what, object) in [
        ("JPEG, grey", jpeg("grey.jpg", 1, "MONOCHROME2")),
        ("JPEG, colour", jpeg("colour.jpg", 3, "YBR_FULL")),
        ("JPEG 2000", fixture("jpeg2000/rgb.dcm")),
        ("native", fixture("jpeg2000/rgb-native.dcm")),
    ] {
        let expected = picture(&object).expect("draws");
        let mut child = drawing().spawn().expect("starts");
        child.stdin.take().expect("a pipe").write_all(&object).expect("is read");
        let out = child.wait_with_output().expect("ends");
        assert!(out.status.success(), "{what}: {:?}", out.status);
        assert_eq!(out.stdout, expected, "{what}");
    }
}
