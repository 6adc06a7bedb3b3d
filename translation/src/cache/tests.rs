//! Against a real redis-server on a socket of its own, and without one.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::Cache;
use crate::load::tests::shipped;
use crate::service::tests::{cda, sent, served, to_pivot};
use crate::store::Store;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(folder: &std::path::Path) -> Server {
    let socket = folder.join("redis.sock");
    let child = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed by tests/run.sh");
    let server = Server(child);
    for _ in 0..200 {
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            return server;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("redis-server does not listen");
}

#[tokio::test]
async fn translated_documents_are_kept_encrypted_and_everything_works_without_redis() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    let url = format!("redis+unix://{}", folder.path().join("redis.sock").display());
    let cache = Cache::redis(&url, [7; 32], Duration::from_secs(60)).expect("an address");
    let store = Store::new(shipped()).expect("passes");
    let mut client = served(store.clone(), cache.clone()).await;
    let (first, summary) = sent(&mut client, &cda(), to_pivot()).await.expect("translates");
    let (again, same) = sent(&mut client, &cda(), to_pivot()).await.expect("translates");
    assert_eq!((&first, summary.translated_at), (&again, same.translated_at), "the second answer is the kept one");

    let mut raw = redis::Client::open(url.as_str())
        .expect("an address")
        .get_multiplexed_async_connection()
        .await
        .expect("connects");
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut raw).await.expect("keys");
    assert_eq!(keys.len(), 1);
    let value: Vec<u8> = redis::cmd("GET").arg(&keys[0]).query_async(&mut raw).await.expect("a value");
    assert!(!value.windows(6).any(|w| w == b"SSC0AD"), "encrypted");
    let life: i64 = redis::cmd("TTL").arg(&keys[0]).query_async(&mut raw).await.expect("a life");
    assert!((1..=60).contains(&life));
    // What was tampered with, or sealed under another key, is a miss.
    let _: () = redis::cmd("SET").arg(&keys[0]).arg(&value[1..]).query_async(&mut raw).await.expect("writes");
    assert_eq!(sent(&mut client, &cda(), to_pivot()).await.expect("translates").0, first);
    cache.announce(store.serving().digest()).await;

    drop(server);
    assert_eq!(sent(&mut client, &cda(), to_pivot()).await.expect("works without Redis").0, first);
}
