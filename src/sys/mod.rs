//! Thin safe wrappers over system calls that nix and rustix lack: the only `unsafe`.

#![allow(unsafe_code)]

pub mod activation;
pub mod bpf;
pub mod cap;
pub mod clone;
pub mod fd;
pub mod fds;
pub mod fork;
pub mod heap;
pub mod mount;
pub mod namespace;
pub mod probe;
pub mod process;
pub mod seccomp;
pub mod signal;
pub mod tty;

/// Fills `buffer` with random bytes from the kernel.
///
/// # Panics
/// Never in practice: getrandom(2) without flags fails only on a kernel older than 3.17.
pub fn random(buffer: &mut [u8]) {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        // SAFETY: the pointer and length describe `rest`, which is valid for writes for the whole call.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        if let Ok(n) = usize::try_from(n) {
            done += n;
        }
    }
}
