//! The log lines of one test, as an operator reads them.

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing::subscriber::DefaultGuard;

/// Lines since [`Lines::begin`]. A test of one thread, with its gateway in it, has its own.
pub(crate) struct Lines {
    written: Written,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub(crate) fn begin() -> Self {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        Self { written, _guard: tracing::subscriber::set_default(lines) }
    }

    /// The fields of each line with this message.
    pub(crate) fn of(&self, message: &str) -> Vec<Value> {
        let written = self.written.0.lock().expect("not poisoned").clone();
        let lines = written.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let fields = lines.map(|line| serde_json::from_slice::<Value>(line).expect("JSON")["fields"].clone());
        fields.filter(|fields| fields["message"] == message).collect()
    }

    /// Whether anything was written that holds this text.
    pub(crate) fn hold(&self, text: &str) -> bool {
        let written = self.written.0.lock().expect("not poisoned");
        String::from_utf8_lossy(&written).contains(text)
    }
}

/// An id as the log has it.
pub(crate) fn digest(id: &str) -> String {
    format!("sha256:{}", hex::encode(&openssl::sha::sha256(id.as_bytes())[..8]))
}
