//! Messages on stderr and in the file that callers such as containerd read them from.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use super::args::{LogFormat, Oci};

/// Where messages go.
pub(super) struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub fn new(oci: &Oci) -> Self {
        Self {
            file: oci.log.clone(),
            format: oci.log_format,
            debug: oci.debug,
        }
    }

    pub fn error(&self, message: &str) {
        eprintln!("husk oci: {message}");
        self.to_file("error", message);
    }

    /// Something did not go as wished, and it matters little.
    pub fn warn(&self, message: &str) {
        if self.debug || self.file.is_none() {
            eprintln!("husk oci: warning: {message}");
        }
        self.to_file("warning", message);
    }

    fn to_file(&self, level: &str, message: &str) {
        let Some(path) = &self.file else {
            return;
        };
        let time = now();
        let line = match self.format {
            LogFormat::Text => format!("time={time:?} level={level} msg={message:?}\n"),
            LogFormat::Json => format!(
                "{}\n",
                serde_json::json!({"level": level, "msg": message, "time": time})
            ),
        };
        let file = OpenOptions::new().create(true).append(true).open(path);
        // There is nobody left to tell if this fails.
        let _ = file.and_then(|mut f| f.write_all(line.as_bytes()));
    }
}

/// The time in the form of RFC 3339.
pub(super) fn now() -> String {
    jiff::Timestamp::from_nanosecond(crate::types::time::now_nanos().into())
        .map(|t| t.to_string())
        .unwrap_or_default()
}
