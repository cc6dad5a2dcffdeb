//! A file system whose server does not answer: what a dead NFS server or a hung storage driver is to a process.
//!
//! Speaks FUSE on `/dev/fuse` itself, as much of it as it takes to look up one file and open it. A read of that file, and
//! a look for one called `silent`, is taken and never answered, so that whoever asks sleeps where no signal wakes it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOSYS: i32 = 38;

/// Longer than any request.
const BUFFER: usize = 1 << 20;

/// The file system, mounted on the node. Dropping it ends whoever waits for it.
#[derive(Debug)]
pub struct Stuck {
    path: PathBuf,
    device: File,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Requests that were taken and not answered.
    pending: Mutex<Vec<u64>>,
    /// Requests are answered from now on.
    answers: AtomicBool,
    ended: AtomicBool,
}

impl Stuck {
    /// Mounts it on the existing directory `path`. It holds one file, called `file`.
    pub fn mount(path: &Path) -> Result<Self> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .context("open /dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        mount(
            Some("stuck"),
            path,
            Some("fuse"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(options.as_str()),
        )
        .context("mount a FUSE file system")?;
        let shared = Arc::new(Shared::default());
        let (of_server, for_server) = (device.try_clone()?, Arc::clone(&shared));
        let server = std::thread::spawn(move || serve(of_server, &for_server));
        Ok(Self {
            path: path.to_owned(),
            device,
            shared,
            server: Some(server),
        })
    }

    /// How many requests are waiting.
    pub fn readers(&self) -> usize {
        self.pending().len()
    }

    /// Answers them all, and all that follow, with an error.
    pub fn let_go(&self) -> Result<()> {
        self.shared.answers.store(true, Ordering::SeqCst);
        for unique in self.pending().drain(..) {
            (&self.device).write_all(&reply(unique, Err(EIO)))?;
        }
        Ok(())
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        // With the last descriptor of the device, the kernel answers everything that is still open.
    }
}

fn serve(mut device: File, shared: &Shared) {
    let mut buffer = vec![0; BUFFER];
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    while !shared.ended.load(Ordering::SeqCst) {
        let ready = poll(&mut [PollFd::new(&device, PollFlags::IN)], Some(&pause));
        if !matches!(ready, Ok(1..)) {
            continue;
        }
        match device.read(&mut buffer) {
            Ok(n) => {
                if let Some(reply) = answer(&buffer[..n], shared) {
                    let _ = device.write_all(&reply);
                }
            }
            // A request that was taken back, or the end of the mount.
            Err(e) if e.raw_os_error() == Some(ENOENT) || e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
}

/// What to say to a request, if anything.
fn answer(request: &[u8], shared: &Shared) -> Option<Vec<u8>> {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(request.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(request.get(at..at + 8)?.try_into().ok()?));
    let (opcode, unique, node) = (u32_at(4)?, u64_at(8)?, u64_at(16)?);
    let body = match opcode {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        READ => return wait(unique, shared),
        LOOKUP if request.get(40..)?.strip_suffix(b"\0") == Some(b"silent") => return wait(unique, shared),
        INIT => Ok(init()),
        GETATTR => Ok([vec![0; 16], attributes(node)].concat()),
        LOOKUP if request.get(40..)?.strip_suffix(b"\0") == Some(b"file") => {
            let mut entry = vec![0; 40];
            entry[0] = 2;
            Ok([entry, attributes(2)].concat())
        }
        LOOKUP => Err(ENOENT),
        // Without the page cache: each read becomes a request.
        OPEN => Ok([[0; 8], [1, 0, 0, 0, 0, 0, 0, 0]].concat()),
        OPENDIR => Ok(vec![0; 16]),
        READDIR | RELEASE | RELEASEDIR | FLUSH => Ok(Vec::new()),
        STATFS => Ok(vec![0; 80]),
        _ => Err(ENOSYS),
    };
    Some(reply(unique, body))
}

fn wait(unique: u64, shared: &Shared) -> Option<Vec<u8>> {
    let mut pending = shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.answers.load(Ordering::SeqCst) {
        return Some(reply(unique, Err(EIO)));
    }
    pending.push(unique);
    None
}

fn reply(unique: u64, body: Result<Vec<u8>, i32>) -> Vec<u8> {
    let (error, body) = match body {
        Ok(body) => (0, body),
        Err(errno) => (-errno, Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).unwrap_or(16);
    let mut out = length.to_ne_bytes().to_vec();
    out.extend(error.to_ne_bytes());
    out.extend(unique.to_ne_bytes());
    out.extend(body);
    out
}

/// Version 7.31 and no wishes but for small writes.
fn init() -> Vec<u8> {
    let mut words = [0u32; 16];
    (words[0], words[1]) = (7, 31);
    words[5] = 4096;
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

/// `struct fuse_attr` of the root or of the file.
fn attributes(node: u64) -> Vec<u8> {
    let (mode, size) = match node {
        1 => (0o040_755_u32, 0_u64),
        _ => (0o100_644, 4096),
    };
    let mut out = Vec::new();
    for number in [node, size, 8, 0, 0, 0] {
        out.extend(number.to_ne_bytes());
    }
    for number in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        out.extend(number.to_ne_bytes());
    }
    out
}
