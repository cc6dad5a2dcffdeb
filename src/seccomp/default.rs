//! husk's default profile: what a container may ask of the kernel that asked for `RuntimeDefault`.
//!
//! An allowlist with the same effect as Docker's and containerd's. What is not named fails with EPERM, or with ENOSYS
//! if it is newer than all that is. Some calls depend on the capabilities the container was given, because the kernel
//! checks those anyway and a container with CAP_SYS_TIME is meant to set the clock.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};

use super::arch::Abi;
use crate::types::{CapSet, Capability};

/// Calls every container may make, by subject.
///
/// Deliberately missing: io_uring (its operations pass by seccomp), kernel keyrings, NUMA policy, swap, quota, kexec,
/// userfaultfd, module loading, and everything that makes or joins namespaces or mounts.
const ALWAYS: &[&str] = &[
    // Files: open, read, write, map.
    "open openat openat2 creat close close_range read write readv writev pread64 pwrite64 preadv pwritev preadv2
     pwritev2 lseek _llseek readahead fadvise64 fadvise64_64 sendfile sendfile64 splice tee vmsplice copy_file_range
     truncate truncate64 ftruncate ftruncate64 fallocate fsync fdatasync sync syncfs sync_file_range dup dup2 dup3
     fcntl fcntl64 flock ioctl umask cachestat",
    // Files: names, attributes, directories.
    "stat stat64 fstat fstat64 lstat lstat64 newfstatat fstatat64 statx statfs statfs64 fstatfs fstatfs64 access
     faccessat faccessat2 chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32 utime
     utimes utimensat utimensat_time64 futimesat mkdir mkdirat rmdir mknod mknodat link linkat symlink symlinkat unlink
     unlinkat rename renameat renameat2 readlink readlinkat getdents getdents64 getcwd chdir fchdir
     name_to_handle_at statmount listmount",
    "getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr flistxattr
     listxattrat removexattr lremovexattr fremovexattr removexattrat",
    // Waiting for events.
    "select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64 epoll_create epoll_create1 epoll_ctl
     epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4 inotify_init
     inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark pipe pipe2 io_setup io_destroy io_submit io_cancel
     io_getevents io_pgetevents io_pgetevents_time64",
    // Memory.
    "brk mmap mmap2 munmap mremap mprotect msync madvise mincore mlock mlock2 mlockall munlock munlockall
     remap_file_pages memfd_create memfd_secret membarrier mseal map_shadow_stack pkey_alloc pkey_free pkey_mprotect",
    // Processes, threads, identities.
    "execve execveat exit exit_group fork vfork wait4 waitid waitpid getpid getppid gettid getpgid getpgrp setpgid
     getsid setsid set_tid_address set_thread_area get_thread_area set_robust_list get_robust_list rseq futex
     futex_time64 futex_wait futex_waitv futex_wake futex_requeue prctl seccomp uname sysinfo getcpu getrusage times
     pidfd_open pidfd_send_signal process_mrelease restart_syscall uprobe uretprobe",
    "getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32
     getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32
     setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32 capget capset
     landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    "getpriority setpriority ioprio_get ioprio_set getrlimit ugetrlimit setrlimit prlimit64 sched_yield
     sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam sched_getscheduler
     sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval
     sched_rr_get_interval_time64",
    // Other processes' memory and registers. Before Linux 4.8 tracing got around seccomp; husk needs a newer kernel.
    "ptrace process_vm_readv process_vm_writev",
    // Signals.
    "kill tkill tgkill pause alarm sigaltstack sigprocmask sigreturn rt_sigaction rt_sigpending rt_sigprocmask
     rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64",
    // Time. The clock itself moves only with CAP_SYS_TIME, which the kernel checks for adjtimex.
    "time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep
     clock_nanosleep_time64 clock_adjtime clock_adjtime64 adjtimex nanosleep getitimer setitimer timer_create
     timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
     timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64",
    // Network; `socket` itself is below. 32-bit x86 has `socketcall` besides, whose arguments no filter sees: it is a way
    // around that list, and one that programs of before Linux 4.3 need.
    "socketpair socketcall bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt shutdown
     send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64",
    // System V and POSIX IPC.
    "ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget mq_open
     mq_unlink mq_notify mq_getsetattr mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64",
    "getrandom",
];

/// Calls that come with a capability.
const WITH_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DAC_READ_SEARCH, "open_by_handle_at"),
    (
        Capability::SYS_ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SYS_BOOT, "reboot"),
    (Capability::SYS_CHROOT, "chroot"),
    (Capability::SYS_MODULE, "delete_module init_module finit_module"),
    (Capability::SYS_PACCT, "acct"),
    (Capability::SYS_PTRACE, "kcmp pidfd_getfd process_madvise"),
    (Capability::SYS_RAWIO, "iopl ioperm"),
    (
        Capability::SYS_TIME,
        "settimeofday stime clock_settime clock_settime64",
    ),
    (Capability::SYS_TTY_CONFIG, "vhangup"),
    (
        Capability::SYS_NICE,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::SYSLOG, "syslog"),
    (Capability::BPF, "bpf"),
    (Capability::PERFMON, "perf_event_open"),
];

/// Values of personality(2): Linux with and without a 32-bit `uname` (`UNAME26` likewise), and the query.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Address families that socket(2) may use.
///
/// A list of what is allowed, since a filter sees 64 bits of the argument and the kernel uses 32: "anything but
/// AF_VSOCK" lets `1 << 32 | AF_VSOCK` through. Left out are AF_VSOCK (reaches the hypervisor and other machines on
/// it, whatever the network namespace), AF_ALG (kernel cryptography, little used and a frequent way to root) and
/// families that Linux no longer has.
///
/// This holds for socket(2) alone. On x86 a program can get any family by 32-bit `socketcall`, even in a 64-bit
/// container (`int 0x80`). It stays allowed, as with Docker and containerd: Docker denied it for a while and took that
/// back, since 32-bit programs broke, and a list of families for them is for AppArmor or SELinux to keep. Who has no
/// such programs can deny it with a profile of their own.
const FAMILIES: &[i32] = &[
    libc::AF_UNSPEC,
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_AX25,
    libc::AF_IPX,
    libc::AF_APPLETALK,
    libc::AF_NETROM,
    libc::AF_BRIDGE,
    libc::AF_ATMPVC,
    libc::AF_X25,
    libc::AF_INET6,
    libc::AF_ROSE,
    libc::AF_NETBEUI,
    libc::AF_SECURITY,
    libc::AF_KEY,
    libc::AF_NETLINK,
    libc::AF_PACKET,
    libc::AF_ASH,
    libc::AF_RDS,
    libc::AF_SNA,
    libc::AF_PPPOX,
    libc::AF_LLC,
    libc::AF_IB,
    libc::AF_MPLS,
    libc::AF_CAN,
    libc::AF_TIPC,
    libc::AF_BLUETOOTH,
    libc::AF_IUCV,
    libc::AF_RXRPC,
    libc::AF_PHONET,
    libc::AF_IEEE802154,
    libc::AF_NFC,
    41, // AF_KCM
    42, // AF_QIPCRTR
    43, // AF_SMC
    libc::AF_XDP,
    45, // AF_MCTP
];

/// clone(2) flags that make namespaces.
const NEW_NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// The default profile of a container whose bounding set is `caps`, for the machine husk runs on.
pub fn default_profile(caps: CapSet) -> LinuxSeccomp {
    match Abi::native() {
        Some(native) => default_profile_for(native, caps),
        // `compile` refuses this machine; what clients see should still be the profile.
        None => profile(vec![Arch::ScmpArchNative], caps, ""),
    }
}

/// As [`default_profile`], for a machine whose own ABI is `native`.
pub fn default_profile_for(native: Abi, caps: CapSet) -> LinuxSeccomp {
    let mut architectures = vec![native.to_oci()];
    architectures.extend(native.companions().iter().map(|a| a.to_oci()));
    profile(architectures, caps, of_machine(native))
}

/// Calls that only some machines have or need.
fn of_machine(native: Abi) -> &'static str {
    match native {
        Abi::X86_64 | Abi::X32 => "arch_prctl modify_ldt",
        Abi::X86 => "modify_ldt",
        Abi::Aarch64 | Abi::Arm => {
            "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
        }
    }
}

fn profile(architectures: Vec<Arch>, caps: CapSet, of_machine: &str) -> LinuxSeccomp {
    let mut syscalls = vec![allow(ALWAYS.iter().flat_map(|group| names(group)))];
    if !of_machine.is_empty() {
        syscalls.push(allow(names(of_machine)));
    }
    syscalls.extend(sockets());
    syscalls.extend(PERSONALITIES.map(|value| allow_if("personality", equals(value))));
    for (capability, group) in WITH_CAPABILITY {
        if caps.contains(*capability) {
            syscalls.push(allow(names(group)));
        }
    }
    if !caps.contains(Capability::SYS_ADMIN) {
        syscalls.extend(threads_and_processes_only());
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM.unsigned_abs()))
        .set_architectures(Some(architectures))
        .set_syscalls(Some(syscalls));
    profile
}

/// clone without new namespaces. clone3 keeps its flags behind a pointer where no filter sees them, so it does not
/// exist here: C libraries then use clone.
fn threads_and_processes_only() -> [LinuxSyscall; 2] {
    let no_namespace = arg(
        LinuxSeccompOperator::ScmpCmpMaskedEq,
        u64::from(NEW_NAMESPACES.unsigned_abs()),
        Some(0),
    );
    let mut no_clone3 = syscall(vec!["clone3".to_owned()], LinuxSeccompAction::ScmpActErrno);
    no_clone3.set_errno_ret(Some(libc::ENOSYS.unsigned_abs()));
    [allow_if("clone", no_namespace), no_clone3]
}

/// One rule per family, but for the first ones that follow each other.
fn sockets() -> Vec<LinuxSyscall> {
    let families = || FAMILIES.iter().map(|f| u64::from(f.unsigned_abs()));
    let run = (0..).zip(families()).take_while(|(n, f)| n == f).count() as u64;
    let first = arg(LinuxSeccompOperator::ScmpCmpLt, run, None);
    let rest = families().filter(|f| *f >= run).map(equals);
    std::iter::once(first)
        .chain(rest)
        .map(|a| allow_if("socket", a))
        .collect()
}

fn names(group: &str) -> impl Iterator<Item = String> {
    group.split_whitespace().map(str::to_owned)
}

fn allow(names: impl Iterator<Item = String>) -> LinuxSyscall {
    syscall(names.collect(), LinuxSeccompAction::ScmpActAllow)
}

fn allow_if(name: &str, arg: LinuxSeccompArg) -> LinuxSyscall {
    let mut rule = allow(std::iter::once(name.to_owned()));
    rule.set_args(Some(vec![arg]));
    rule
}

fn syscall(names: Vec<String>, action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names).set_action(action);
    rule
}

fn equals(value: u64) -> LinuxSeccompArg {
    arg(LinuxSeccompOperator::ScmpCmpEq, value, None)
}

/// A condition on the first argument.
fn arg(op: LinuxSeccompOperator, value: u64, value_two: Option<u64>) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .op(op)
        .value(value);
    let arg = match value_two {
        Some(two) => arg.value_two(two),
        None => arg,
    };
    // Cannot fail: every field has a default.
    arg.build().unwrap_or_default()
}
