//! The memory of what was attached: one JSON file per pod, written before the effect and removed after it.
//!
//! A record holds all that undoing takes, configuration included, so a pod can be detached when the configuration has
//! changed or gone, the namespace is gone, or the node was rebooted. Records are the only truth for addresses and ports
//! in use; whatever is kept in memory is rebuilt from them.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cidr::Cidr;
use super::request::Attachment;
use crate::types::error::Context;
use crate::types::pod::PortMapping;
use crate::types::{Error, PodId, Result};

/// Version of the file format.
const VERSION: u32 = 1;
/// A record holds a configuration and a result, each bounded to 1 MiB.
const MAX_BYTES: u64 = 8 << 20;

/// One pod's attachment, or the intent to make it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The pod.
    pub pod: PodId,
    /// Pod name, for messages.
    pub name: String,
    /// Kubernetes namespace, for messages.
    pub namespace: String,
    /// Path of the pinned namespace.
    pub netns: PathBuf,
    /// Outcome; `None` while it is only an intent.
    pub attachment: Option<Attachment>,
    /// Host ports that husk itself leads to the pod, and the addresses they lead to.
    pub ports: Vec<PortMapping>,
    /// Addresses with the network each is part of.
    pub addresses: Vec<Cidr>,
    /// How it was attached.
    pub via: Via,
}

/// How a pod was attached.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// Through plugins.
    Cni(CniRecord),
    /// By husk's own bridge.
    Builtin(BuiltinRecord),
}

/// What the DEL of a plugin chain takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CniRecord {
    /// The file the configuration came from, for messages.
    pub file: PathBuf,
    /// The whole configuration list as used.
    pub config: Value,
    /// Interface name in the pod.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// Values for the capabilities that plugins may declare.
    pub capability_args: BTreeMap<String, Value>,
    /// Result of the last plugin.
    pub result: Option<Value>,
}

/// What the built-in network gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuiltinRecord {
    /// Name of the interface on the node.
    pub host_interface: String,
    /// Place of the pod's addresses within the subnets.
    pub index: u32,
    /// The addresses themselves.
    pub ips: Vec<IpAddr>,
}

impl Record {
    /// The intent to attach `pod`.
    pub fn intent(pod: PodId, name: &str, namespace: &str, netns: PathBuf, via: Via) -> Self {
        Self {
            version: VERSION,
            pod,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            netns,
            attachment: None,
            ports: Vec::new(),
            addresses: Vec::new(),
            via,
        }
    }

    /// How messages name the pod.
    pub fn who(&self) -> String {
        format!("pod {}/{} ({})", self.namespace, self.name, self.pod.short())
    }
}

/// All records, in memory and on disk.
pub struct Store {
    dir: PathBuf,
    records: Mutex<HashMap<PodId, Arc<Record>>>,
}

impl Store {
    /// Reads the records under `dir`, which is made if needed. One that cannot be read is set aside and logged: it must
    /// not keep all other pods from being served.
    ///
    /// # Errors
    /// The directory cannot be made or listed.
    pub fn load(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("create directory {}", dir.display()))?;
        let mut records = HashMap::new();
        let entries = fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?;
        for entry in entries.flatten() {
            let path = entry.path();
            match read(&path) {
                Ok(Some(record)) => drop(records.insert(record.pod.clone(), Arc::new(record))),
                Ok(None) => {}
                Err(error) => set_aside(&path, &error),
            }
        }
        let records = Mutex::new(records);
        Ok(Self { dir, records })
    }

    /// The record of `pod`.
    pub fn get(&self, pod: &PodId) -> Option<Arc<Record>> {
        self.lock().get(pod).cloned()
    }

    /// All records.
    pub fn all(&self) -> Vec<Arc<Record>> {
        self.lock().values().cloned().collect()
    }

    /// Writes `record`, atomically, in place of an earlier one. `durable` makes it survive a power cut too: needed for
    /// effects that do, such as addresses that a plugin leases on disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&self, record: Record, durable: bool) -> Result<Arc<Record>> {
        let path = self.path(&record.pod);
        let what = || format!("write network record {}", path.display());
        let bytes = serde_json::to_vec(&record).with_context(what)?;
        replace(&path, &bytes, durable).with_context(what)?;
        let record = Arc::new(record);
        self.lock().insert(record.pod.clone(), Arc::clone(&record));
        Ok(record)
    }

    /// Forgets `pod`. Idempotent.
    ///
    /// # Errors
    /// The file stays; so does the record.
    pub fn remove(&self, pod: &PodId) -> Result<()> {
        let path = self.path(pod);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::internal(format!(
                    "remove network record {}: {e}",
                    path.display()
                )));
            }
            _ => {}
        }
        self.lock().remove(pod);
        Ok(())
    }

    fn path(&self, pod: &PodId) -> PathBuf {
        self.dir.join(format!("{pod}.json"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodId, Arc<Record>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces the file at `path` so that a reader sees the old content or the new one, never a part.
///
/// # Errors
/// The temporary file cannot be written or renamed.
pub fn replace(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_data()?;
    }
    fs::rename(&temporary, path)?;
    if durable && let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// `None` for what is no record: a temporary file of an interrupted write, or one set aside earlier.
fn read(path: &Path) -> Result<Option<Record>> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("json") => {}
        Some("tmp") => {
            let _ = fs::remove_file(path);
            return Ok(None);
        }
        _ => return Ok(None),
    }
    let size = fs::metadata(path).context("read")?.len();
    if size > MAX_BYTES {
        return Err(Error::internal(format!("{size} bytes are too many")));
    }
    let record: Record = serde_json::from_slice(&fs::read(path).context("read")?).context("parse")?;
    if record.version > VERSION {
        // Stays where it is: the newer husk may come back for it.
        tracing::error!(record = %path.display(), format = record.version, "skipped the network record of a newer husk");
        return Ok(None);
    }
    let named = path.file_stem().and_then(|s| s.to_str());
    if PodId::parse(record.pod.as_str()).is_none() || named != Some(record.pod.as_str()) {
        return Err(Error::internal("its name is not that of the pod it describes"));
    }
    Ok(Some(record))
}

fn set_aside(path: &Path, error: &Error) {
    let aside = path.with_extension("unreadable");
    tracing::error!(record = %path.display(), aside = %aside.display(), %error,
        "cannot read a pod's network record; what it holds cannot be released");
    let _ = fs::rename(path, aside);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record() -> Record {
        let via = Via::Builtin(BuiltinRecord {
            host_interface: "hk0".into(),
            index: 2,
            ips: vec!["10.0.0.2".parse().unwrap()],
        });
        Record::intent(PodId::random(), "web", "default", "/run/x".into(), via)
    }

    #[test]
    fn records_survive_a_restart_and_vanish_when_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::load(dir.path().into()).unwrap();
        let pod = store.put(record(), true).unwrap().pod.clone();
        let again = Store::load(dir.path().into()).unwrap();
        assert_eq!(again.get(&pod).unwrap().name, "web");
        again.remove(&pod).unwrap();
        again.remove(&pod).unwrap();
        assert!(Store::load(dir.path().into()).unwrap().all().is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn damage_is_set_aside_and_harms_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::load(dir.path().into()).unwrap();
        let good = store.put(record(), false).unwrap().pod.clone();
        let bad = PodId::random();
        fs::write(dir.path().join(format!("{bad}.json")), "{\"version\":1,").unwrap();
        fs::write(dir.path().join("half.tmp"), "{").unwrap();
        fs::copy(
            store.path(&good),
            dir.path().join(format!("{}.json", PodId::random())),
        )
        .unwrap();
        let again = Store::load(dir.path().into()).unwrap();
        assert_eq!(again.all().len(), 1);
        assert!(again.get(&good).is_some());
        assert!(dir.path().join(format!("{bad}.unreadable")).exists());
        assert!(!dir.path().join("half.tmp").exists());
    }
}
