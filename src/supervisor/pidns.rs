//! The init of a pod's own pid namespace.
//!
//! Containers that share the namespace can look at its first process, so that process offers nothing: it is a program of
//! two system calls in a sealed memory file (no path to husk's binary), its root is an empty file system of its own, it
//! has no capabilities, cannot be traced, and ends with the supervisor. It reaps by ignoring SIGCHLD. 8 KiB of memory.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{MemfdFlags, Mode, SealFlags, XattrFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use crate::spec::selinux::mount_options;
use crate::sys::fork::{Forked, fork_into};
use crate::types::error::Context as _;
use crate::types::security::SELINUX_ATTRIBUTE;
use crate::types::{Error, Result};

use super::protocol::PodSpawn;

/// A running init.
#[derive(Debug)]
pub struct Init {
    /// Its process id, as the node counts.
    pub pid: i32,
    /// Its pidfd, which doubles as a handle on the namespace.
    pub pidfd: OwnedFd,
}

/// Makes a pid namespace and waits until its init has stripped itself.
///
/// # Errors
/// If the node refuses the namespace or a step of the stripping.
pub fn start(spawn: &PodSpawn) -> Result<Init> {
    let what = "start the init of the pod's pid namespace";
    let program = program(spawn).context(what)?;
    let (report, reporter) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(what)?;
    match fork_into(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS).context(what)? {
        Forked::Child => {
            drop(report);
            let error = strip_and_exec(&program, spawn);
            let _ = rustix::io::write(&reporter, error.to_string().as_bytes());
            std::process::exit(1);
        }
        Forked::Parent(pid) => {
            drop(reporter);
            let pidfd = Pid::from_raw(pid)
                .ok_or(rustix::io::Errno::SRCH)
                .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
                .context(what)?;
            // Closed by a successful exec: then there is nothing to read.
            match rest(&report) {
                Ok(message) if message.is_empty() => Ok(Init { pid, pidfd }),
                Ok(message) => Err(Error::internal(format!("{what}: {message}"))),
                Err(e) => Err(Error::internal(format!("{what}: {e}"))),
            }
        }
    }
}

fn rest(pipe: &OwnedFd) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut std::fs::File::from(pipe.try_clone()?), &mut text)?;
    Ok(text)
}

/// Runs in the child; comes back only with an error.
pub(super) fn strip_and_exec(program: &OwnedFd, spawn: &PodSpawn) -> Error {
    fn steps(program: &OwnedFd, spawn: &PodSpawn) -> Result<()> {
        die_with_parent().context("ask to die with the supervisor")?;
        if !spawn.process_label.is_empty() {
            std::fs::write("/proc/self/attr/exec", &spawn.process_label).context("set SELinux label")?;
        }
        empty_root(&spawn.mount_label).context("make an empty root")?;
        default_signals().context("reset signals")?;
        no_privileges().context("drop privileges")?;
        close_streams().context("close standard streams")?;
        let name = CString::from(c"husk-init");
        nix::unistd::fexecve(program.as_fd(), &[name], &[] as &[CString]).context("execute")?;
        Ok(())
    }
    match steps(program, spawn) {
        Ok(()) => Error::internal("exec came back"),
        Err(e) => e,
    }
}

/// The parent waits for the report, so it cannot have died unnoticed before this takes effect for long: if it did, the
/// namespace has no other process and nothing refers to it. The program says it again: SELinux takes it back from a process
/// that gets another label.
fn die_with_parent() -> rustix::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
}

fn empty_root(label: &str) -> rustix::io::Result<()> {
    use rustix::mount::{mount, mount_change, unmount};
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let data = mount_options("size=4k,nr_inodes=2,mode=555", label);
    let data = CString::new(data).map_err(|_| rustix::io::Errno::INVAL)?;
    // Any directory will do; /proc is one that every node has.
    mount(
        "husk-init",
        "/proc",
        "tmpfs",
        flags | MountFlags::RDONLY,
        Some(data.as_c_str()),
    )?;
    rustix::process::chdir("/proc")?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

fn default_signals() -> io::Result<()> {
    for signal in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        crate::sys::signal::restore(signal)?;
    }
    // Makes the kernel reap orphans by itself, and outlives the exec.
    crate::sys::signal::ignore(Signal::SIGCHLD)?;
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// The supervisor's log is not for a process of the pod, and a security module would say so at every start.
fn close_streams() -> rustix::io::Result<()> {
    use rustix::io::{FdFlags, fcntl_setfd};
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    for stream in [input.as_fd(), output.as_fd(), error.as_fd()] {
        match fcntl_setfd(stream, FdFlags::CLOEXEC) {
            Ok(()) | Err(rustix::io::Errno::BADF) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Without the secure bits an exec as user 0 would give every capability back.
fn no_privileges() -> rustix::io::Result<()> {
    let bits = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
    rustix::thread::set_capabilities_secure_bits(bits)?;
    rustix::thread::set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
}

/// A sealed memory file with the program, which is labelled as a container's. Its mode forbids reading, so that the process it becomes is not dumpable.
pub(super) fn program(spawn: &PodSpawn) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag and need none.
    let file = match rustix::fs::memfd_create("husk-init", flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("husk-init", flags)?,
        file => file?,
    };
    let image = image();
    let mut at = 0;
    while at < image.len() {
        at += rustix::io::write(&file, &image[at..])?;
    }
    if !spawn.mount_label.is_empty() {
        let (label, flags) = (spawn.mount_label.as_bytes(), XattrFlags::empty());
        rustix::fs::fsetxattr(&file, SELINUX_ATTRIBUTE, label, flags)?;
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o111))?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file)
}

/// `prctl(PR_SET_PDEATHSIG, SIGKILL); for (;;) pause();`
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0xb8, 0x9d, 0x00, 0x00, 0x00, // mov eax, 157 (prctl)
    0xbf, 0x01, 0x00, 0x00, 0x00, // mov edi, 1
    0xbe, 0x09, 0x00, 0x00, 0x00, // mov esi, 9
    0x0f, 0x05, // syscall
    0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34 (pause)
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // jmp to the pause
];
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;

/// `prctl(PR_SET_PDEATHSIG, SIGKILL); for (;;) ppoll(NULL, 0, NULL, NULL);`
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0xe8, 0x14, 0x80, 0xd2, // mov x8, 167 (prctl)
    0x20, 0x00, 0x80, 0xd2, // mov x0, 1
    0x21, 0x01, 0x80, 0xd2, // mov x1, 9
    0x01, 0x00, 0x00, 0xd4, // svc 0
    0x00, 0x00, 0x80, 0xd2, // mov x0, 0
    0x01, 0x00, 0x80, 0xd2, // mov x1, 0
    0x02, 0x00, 0x80, 0xd2, // mov x2, 0
    0x03, 0x00, 0x80, 0xd2, // mov x3, 0
    0x28, 0x09, 0x80, 0xd2, // mov x8, 73 (ppoll)
    0x01, 0x00, 0x00, 0xd4, // svc 0
    0xfa, 0xff, 0xff, 0x17, // b to the ppoll
];
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// A 64-bit ELF file: header, one loadable segment that is the whole file, code.
fn image() -> Vec<u8> {
    const HEADER: u16 = 64;
    const SEGMENT: u16 = 56;
    const BASE: u64 = 0x40_0000;
    let start = u64::from(HEADER + SEGMENT);
    let length = start + CODE.len() as u64;
    let mut elf = Vec::new();
    // Identification: 64-bit, little-endian, version 1, System V.
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend_from_slice(&2u16.to_le_bytes()); // executable
    elf.extend_from_slice(&MACHINE.to_le_bytes());
    elf.extend_from_slice(&1u32.to_le_bytes());
    elf.extend_from_slice(&(BASE + start).to_le_bytes()); // entry
    elf.extend_from_slice(&u64::from(HEADER).to_le_bytes()); // segments are described at
    elf.extend_from_slice(&0u64.to_le_bytes()); // no sections
    elf.extend_from_slice(&0u32.to_le_bytes());
    for half in [HEADER, SEGMENT, 1, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    elf.extend_from_slice(&1u32.to_le_bytes()); // load
    elf.extend_from_slice(&5u32.to_le_bytes()); // read, execute
    for word in [0, BASE, BASE, length, length, 0x1000] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(CODE);
    elf
}
