//! bpf(2): loading device programs and attaching them to cgroups of version 2.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;

/// The kernel's own limit of programs on one cgroup.
const MAX_ATTACHED: usize = 64;

/// How often a load is tried again.
const RETRIES: usize = 5;

/// Head of `union bpf_attr` for `BPF_PROG_LOAD`. A kernel that knows more fields takes them as zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replace: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program, one `u64` per instruction.
///
/// # Errors
/// The verifier refuses it (`EINVAL`, `EACCES`), or `EPERM` without `CAP_BPF` or `CAP_SYS_ADMIN`.
pub fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut attr = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(instructions.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        ..Load::default()
    };
    attr.name[..11].copy_from_slice(b"husk_device");
    // The verifier gives up when a signal comes in.
    let fd = (0..=RETRIES)
        .map(|_| {
            // SAFETY: `attr` points to `instructions` with their number and to a static string; both outlive the call.
            unsafe { bpf(PROG_LOAD, &mut attr) }
        })
        .find(|loaded| !matches!(loaded, Err(e) if e.raw_os_error() == Some(libc::EAGAIN)))
        .unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::EAGAIN)))?;
    // SAFETY: the kernel has just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device program to a cgroup, beside others or, in one step, in place of one.
///
/// # Errors
/// `EPERM` if another attachment forbids it; `E2BIG` if there are too many.
pub fn attach_device_program(
    cgroup: impl AsFd,
    program: impl AsFd,
    replace: Option<&OwnedFd>,
) -> io::Result<()> {
    let mut attr = attachment(&cgroup, &program);
    attr.flags = ALLOW_MULTI;
    if let Some(old) = replace {
        attr.flags |= REPLACE;
        attr.replace = raw(old);
    }
    // SAFETY: `attr` holds no pointers.
    unsafe { bpf(PROG_ATTACH, &mut attr) }.map(drop)
}

/// Takes a device program off a cgroup.
///
/// # Errors
/// `ENOENT` if it is not attached.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attr = attachment(&cgroup, &program);
    // SAFETY: `attr` holds no pointers.
    unsafe { bpf(PROG_DETACH, &mut attr) }.map(drop)
}

/// The device programs attached to this very cgroup.
///
/// # Errors
/// `EPERM`, or `EINVAL` on a kernel without device programs.
pub fn device_programs(cgroup: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; MAX_ATTACHED];
    let mut attr = Query {
        target: raw(&cgroup),
        kind: CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: MAX_ATTACHED as u32,
        ..Query::default()
    };
    // SAFETY: `attr.ids` points to `attr.count` numbers, writable for the whole call.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    let count = usize::try_from(attr.count).unwrap_or(0).min(MAX_ATTACHED);
    ids[..count].iter().map(|&id| by_id(id)).collect()
}

fn by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = ById {
        id,
        ..ById::default()
    };
    // SAFETY: `attr` holds no pointers.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attachment(cgroup: &impl AsFd, program: &impl AsFd) -> Attach {
    Attach {
        target: raw(cgroup),
        program: raw(program),
        kind: CGROUP_DEVICE,
        ..Attach::default()
    }
}

fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// # Safety
/// `attr` must be the head of `union bpf_attr` for `command`, and pointers in it must be valid as the command uses them.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the caller vouches for `attr`; the size passed is its own.
    let n = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if n < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(i32::try_from(n).unwrap_or(0))
    }
}
