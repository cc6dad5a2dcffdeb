//! Decisions of the default profile.

use super::super::bpf::{Data, steps};
use super::super::default::default_profile_for;
use super::super::{Abi, Program, compile_for, tables};
use crate::types::{CapSet, Capability};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x5_0001;
const ENOSYS: u32 = 0x5_0026;
const KILL: u32 = 0x8000_0000;

struct Machine {
    program: Program,
}

impl Machine {
    fn new(native: Abi, caps: CapSet) -> Self {
        let profile = default_profile_for(native, caps);
        let (program, ignored) = compile_for(native, &profile).unwrap();
        assert_eq!(ignored.syscalls, Vec::<String>::new(), "a misspelt name");
        Self { program }
    }

    fn raw(&self, arch: u32, nr: u32, args: &[u64]) -> u32 {
        let mut data = Data::call(arch, nr);
        data.args[..args.len()].copy_from_slice(args);
        steps(&self.program.filter, &data).unwrap().0
    }

    fn call(&self, abi: Abi, name: &str, args: &[u64]) -> u32 {
        let nr = tables::number(abi, name).unwrap_or_else(|| panic!("{abi:?} has no {name}"));
        self.raw(abi.audit(), nr, args)
    }
}

#[test]
fn ordinary_calls_pass_on_every_abi() {
    for (native, abis) in [
        (Abi::X86_64, &[Abi::X86_64, Abi::X86, Abi::X32][..]),
        (Abi::Aarch64, &[Abi::Aarch64, Abi::Arm][..]),
    ] {
        let machine = Machine::new(native, CapSet::DEFAULT);
        for abi in abis {
            for name in [
                "read",
                "write",
                "openat",
                "mmap",
                "mmap2",
                "execve",
                "exit_group",
                "futex",
                "rt_sigreturn",
                "clone",
                "chroot",
                "statx",
                "mseal",
                "ptrace",
                "getrandom",
                "setxattrat",
            ] {
                if tables::number(*abi, name).is_some() {
                    assert_eq!(machine.call(*abi, name, &[]), ALLOW, "{abi:?} {name}");
                }
            }
        }
    }
}

/// Known and documented: its arguments cannot be seen, and old programs know nothing else.
#[test]
fn families_are_listed_for_socket_alone() {
    let machine = Machine::new(Abi::X86_64, CapSet::DEFAULT);
    for family in [libc::AF_ALG, libc::AF_VSOCK] {
        for abi in [Abi::X86_64, Abi::X86] {
            let family = u64::from(family.unsigned_abs());
            assert_eq!(machine.call(abi, "socket", &[family]), EPERM, "{abi:?} {family}");
        }
    }
    assert_eq!(machine.call(Abi::X86, "socketcall", &[1]), ALLOW);
}

#[test]
fn dangerous_calls_fail() {
    for native in [Abi::X86_64, Abi::Aarch64] {
        let machine = Machine::new(native, CapSet::DEFAULT);
        for name in [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "pivot_root",
            "bpf",
            "keyctl",
            "add_key",
            "request_key",
            "kexec_load",
            "init_module",
            "finit_module",
            "delete_module",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "userfaultfd",
            "perf_event_open",
            "open_by_handle_at",
            "reboot",
            "swapon",
            "settimeofday",
            "clock_settime",
            "sethostname",
            "syslog",
            "acct",
            "quotactl",
            "move_mount",
            "open_tree",
            "fsopen",
            "mount_setattr",
            "pidfd_getfd",
            "kcmp",
            "process_madvise",
            "mbind",
            "vhangup",
            "nfsservctl",
        ] {
            if tables::number(native, name).is_some() {
                assert_eq!(machine.call(native, name, &[]), EPERM, "{native:?} {name}");
            }
        }
    }
}

/// A call newer than the profile must look as if the kernel did not have it, or C libraries will not fall back.
#[test]
fn calls_of_the_future_do_not_exist() {
    for native in [Abi::X86_64, Abi::Aarch64] {
        let machine = Machine::new(native, CapSet::DEFAULT);
        for abi in std::iter::once(native).chain(native.companions().iter().copied()) {
            // x32 has old calls of its own above all others.
            let newest = if abi == Abi::X32 {
                "pwritev2"
            } else {
                "rseq_slice_yield"
            };
            let nr = tables::number(abi, newest).unwrap() + u32::from(abi == Abi::X32);
            for nr in [nr, nr + 1, nr + 1000] {
                assert_eq!(machine.raw(abi.audit(), nr, &[]), ENOSYS, "{abi:?} {nr}");
            }
        }
    }
    let machine = Machine::new(Abi::Aarch64, CapSet::DEFAULT);
    assert_eq!(machine.call(Abi::Arm, "set_tls", &[]), ALLOW);
    assert_eq!(machine.call(Abi::Arm, "usr26", &[]), EPERM);
}

#[test]
fn foreign_architectures_are_killed() {
    let machine = Machine::new(Abi::X86_64, CapSet::ALL);
    assert_eq!(machine.raw(Abi::Aarch64.audit(), 63, &[]), KILL);
    assert_eq!(machine.raw(0, 0, &[]), KILL);
}

#[test]
fn clone_makes_no_namespaces_without_sys_admin() {
    let plain = Machine::new(Abi::X86_64, CapSet::DEFAULT);
    let admin = Machine::new(Abi::X86_64, CapSet::DEFAULT | Capability::SYS_ADMIN.into());
    let sigchld = 17;
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        assert_eq!(plain.call(abi, "clone", &[sigchld]), ALLOW);
        assert_eq!(plain.call(abi, "clone3", &[]), ENOSYS);
        assert_eq!(admin.call(abi, "clone3", &[]), ALLOW);
        for flag in [
            libc::CLONE_NEWNS,
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWCGROUP,
        ] {
            let flags = u64::from(flag.unsigned_abs()) | sigchld;
            assert_eq!(plain.call(abi, "clone", &[flags]), EPERM, "{abi:?} {flag:#x}");
            assert_eq!(admin.call(abi, "clone", &[flags]), ALLOW);
        }
    }
}

#[test]
fn sockets_by_family() {
    let machine = Machine::new(Abi::X86_64, CapSet::ALL);
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        for family in [
            libc::AF_UNIX,
            libc::AF_INET,
            libc::AF_INET6,
            libc::AF_NETLINK,
            libc::AF_PACKET,
            libc::AF_XDP,
        ] {
            let family = u64::from(family.unsigned_abs());
            assert_eq!(machine.call(abi, "socket", &[family]), ALLOW, "{family}");
        }
        for family in [libc::AF_VSOCK, libc::AF_ALG, libc::AF_DECnet, 46, 4096] {
            let family = u64::from(family.unsigned_abs());
            assert_eq!(machine.call(abi, "socket", &[family]), EPERM, "{family}");
        }
    }
    // The kernel would cut this to AF_VSOCK.
    let disguised = (1 << 32) | u64::from(libc::AF_VSOCK.unsigned_abs());
    assert_eq!(machine.call(Abi::X86_64, "socket", &[disguised]), EPERM);
}

#[test]
fn personalities() {
    let machine = Machine::new(Abi::X86_64, CapSet::ALL);
    for (value, expected) in [
        (0, ALLOW),
        (8, ALLOW),
        (0x2_0000, ALLOW),
        (0x2_0008, ALLOW),
        (0xffff_ffff, ALLOW),
        (1, EPERM),
        (0x4_0000, EPERM),
        (0xffff_fffe, EPERM),
        (0x1_0000_0000, EPERM),
        (u64::MAX, EPERM),
    ] {
        assert_eq!(
            machine.call(Abi::X86_64, "personality", &[value]),
            expected,
            "{value:#x}"
        );
    }
}

#[test]
fn capabilities_open_their_calls() {
    for (capability, name) in [
        (Capability::DAC_READ_SEARCH, "open_by_handle_at"),
        (Capability::SYS_ADMIN, "mount"),
        (Capability::SYS_ADMIN, "setns"),
        (Capability::SYS_BOOT, "reboot"),
        (Capability::SYS_CHROOT, "chroot"),
        (Capability::SYS_MODULE, "init_module"),
        (Capability::SYS_PACCT, "acct"),
        (Capability::SYS_PTRACE, "pidfd_getfd"),
        (Capability::SYS_RAWIO, "iopl"),
        (Capability::SYS_TIME, "clock_settime"),
        (Capability::SYS_TTY_CONFIG, "vhangup"),
        (Capability::SYS_NICE, "mbind"),
        (Capability::SYSLOG, "syslog"),
        (Capability::BPF, "bpf"),
        (Capability::PERFMON, "perf_event_open"),
    ] {
        let without = Machine::new(Abi::X86_64, CapSet::EMPTY);
        let with = Machine::new(Abi::X86_64, capability.into());
        assert_eq!(without.call(Abi::X86_64, name, &[]), EPERM, "{name}");
        assert_eq!(with.call(Abi::X86_64, name, &[]), ALLOW, "{name}");
    }
}

/// The point of trees: few instructions in all and few on the way to a verdict.
#[test]
fn programs_are_short_and_shallow() {
    let one = {
        let mut profile = default_profile_for(Abi::X86_64, CapSet::DEFAULT);
        profile.set_architectures(None);
        compile_for(Abi::X86_64, &profile).unwrap().0
    };
    let three = Machine::new(Abi::X86_64, CapSet::DEFAULT).program;
    println!("instructions: {} and {}", one.filter.len(), three.filter.len());
    assert!(one.filter.len() < 382, "{}", one.filter.len());
    assert!(three.filter.len() < 1160, "{}", three.filter.len());
    let longest = (0..500).map(|nr| {
        let data = Data::call(Abi::X86_64.audit(), nr);
        steps(&three.filter, &data).unwrap().1
    });
    assert!(longest.max().unwrap() <= 25);
}
