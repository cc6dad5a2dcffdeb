//! System call numbers by name, one sorted table per ABI.
//!
//! The numbers are facts of the kernel's user-space headers and never change once assigned. To extend the tables, add
//! the new names of `arch/*/syscall*.tbl`; since Linux 5.0 a new call has the same number on every architecture.

mod aarch64;
mod arm;
mod x32;
mod x86;
mod x86_64;

use super::arch::Abi;

/// `(name, number)`, sorted by name.
pub(super) fn of(abi: Abi) -> &'static [(&'static str, u32)] {
    match abi {
        Abi::X86_64 => x86_64::SYSCALLS,
        Abi::X86 => x86::SYSCALLS,
        Abi::X32 => x32::SYSCALLS,
        Abi::Aarch64 => aarch64::SYSCALLS,
        Abi::Arm => arm::SYSCALLS,
    }
}

/// The number of `name`, or `None` where the ABI has no such call.
pub(super) fn number(abi: Abi, name: &str) -> Option<u32> {
    let table = of(abi);
    let at = table.binary_search_by_key(&name, |(n, _)| n).ok()?;
    table.get(at).map(|(_, number)| *number)
}

/// Calls that 32-bit x86 also reaches through one door with the real call in the first argument:
/// `(door's name, name, value of the first argument)`.
pub(super) const X86_DOORS: &[(&str, &str, u32)] = &[
    ("socketcall", "socket", 1),
    ("socketcall", "bind", 2),
    ("socketcall", "connect", 3),
    ("socketcall", "listen", 4),
    ("socketcall", "accept", 5),
    ("socketcall", "getsockname", 6),
    ("socketcall", "getpeername", 7),
    ("socketcall", "socketpair", 8),
    ("socketcall", "send", 9),
    ("socketcall", "recv", 10),
    ("socketcall", "sendto", 11),
    ("socketcall", "recvfrom", 12),
    ("socketcall", "shutdown", 13),
    ("socketcall", "setsockopt", 14),
    ("socketcall", "getsockopt", 15),
    ("socketcall", "sendmsg", 16),
    ("socketcall", "recvmsg", 17),
    ("socketcall", "accept4", 18),
    ("socketcall", "recvmmsg", 19),
    ("socketcall", "sendmmsg", 20),
    ("ipc", "semop", 1),
    ("ipc", "semget", 2),
    ("ipc", "semctl", 3),
    ("ipc", "semtimedop", 4),
    ("ipc", "msgsnd", 11),
    ("ipc", "msgrcv", 12),
    ("ipc", "msgget", 13),
    ("ipc", "msgctl", 14),
    ("ipc", "shmat", 21),
    ("ipc", "shmdt", 22),
    ("ipc", "shmget", 23),
    ("ipc", "shmctl", 24),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_free_of_repeats() {
        for abi in Abi::ALL {
            let table = of(abi);
            assert!(table.windows(2).all(|w| w[0].0 < w[1].0), "{abi:?}");
        }
    }

    /// Some numbers that a person can check in the kernel's headers.
    #[test]
    fn well_known_numbers() {
        for (abi, name, expected) in [
            (Abi::X86_64, "read", Some(0)),
            (Abi::X86_64, "clone3", Some(435)),
            (Abi::X86_64, "socketcall", None),
            (Abi::X86, "read", Some(3)),
            (Abi::X86, "socketcall", Some(102)),
            (Abi::X32, "ioctl", Some(0x4000_0000 | 514)),
            (Abi::Aarch64, "read", Some(63)),
            (Abi::Aarch64, "open", None),
            (Abi::Arm, "set_tls", Some(0xf_0005)),
            (Abi::Arm, "rseq_slice_yield", Some(471)),
            (Abi::X86_64, "no_such_call", None),
        ] {
            assert_eq!(number(abi, name), expected, "{abi:?} {name}");
        }
    }

    /// The libc crate has its own copy of the numbers of the architecture that this test runs on.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn agrees_with_libc() {
        for (name, theirs) in [
            ("openat2", libc::SYS_openat2),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("futex_waitv", libc::SYS_futex_waitv),
            ("mseal", libc::SYS_mseal),
            ("personality", libc::SYS_personality),
            ("setns", libc::SYS_setns),
        ] {
            assert_eq!(number(Abi::X86_64, name).map(i64::from), Some(theirs), "{name}");
        }
    }
}
