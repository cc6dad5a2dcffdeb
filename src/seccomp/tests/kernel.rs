//! Programs in the real kernel. A filter cannot be taken off again, so each case runs in a process of its own: this
//! test binary once more, with the case as an environment variable.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use oci_spec::runtime::LinuxSeccomp;

use super::super::{compile, default_profile};
use crate::sys;
use crate::types::CapSet;

const CASE: &str = "HUSK_SECCOMP_TEST_CASE";

fn run_case(case: &str) -> ExitStatus {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "seccomp::tests::kernel::child",
            "--ignored",
            "--nocapture",
        ])
        .env(CASE, case)
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    print!("{}", String::from_utf8_lossy(&output.stderr));
    output.status
}

/// The other side of [`run_case`], no test by itself; asserts by panicking.
#[test]
#[ignore = "runs as a child of the other tests"]
fn child() {
    // SIGSYS leaves a core file otherwise.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
    match std::env::var(CASE).as_deref() {
        Ok("default") => child_default(),
        Ok("chmod") => child_chmod(),
        Ok("kill") => child_kill(),
        Ok("flags") => child_flags(),
        Ok(other) => panic!("{CASE} is {other:?}"),
        Err(_) => {}
    }
}

fn install(profile: &LinuxSeccomp) {
    let (program, _) = compile(profile).unwrap();
    sys::seccomp::install(&program.filter, program.flags).unwrap();
}

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

#[test]
fn default_profile_denies_and_permits() {
    assert!(run_case("default").success());
}

fn child_default() {
    install(&default_profile(CapSet::DEFAULT));
    // Root with all capabilities, and yet:
    assert_eq!(nix::sched::unshare(CloneFlags::CLONE_NEWUTS), Err(Errno::EPERM));
    let mount = nix::mount::umount("/nowhere");
    assert_eq!(mount, Err(Errno::EPERM));
    let vsock = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::empty(), None);
    assert_eq!(vsock.err(), Some(Errno::EPERM));
    assert_eq!(nix::unistd::sethostname("husk-seccomp-test"), Err(Errno::EPERM));
    // Daily life goes on. A new thread is clone3 first, then clone.
    let inet = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None);
    assert!(inet.is_ok());
    assert!(nix::sys::personality::get().is_ok());
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    let file = tempfile::NamedTempFile::new().unwrap();
    chmod(file.path(), 0o640).unwrap();
    assert!(Command::new("/bin/true").status().unwrap().success());
}

fn chmod(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[test]
fn arguments_decide() {
    assert!(run_case("chmod").success());
}

fn child_chmod() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // The mode is argument 1 of chmod and 2 of the others, 0o4000 is the setuid bit.
    install(&profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30,
             "args": [{"index": 1, "value": 2048, "valueTwo": 2048, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30,
             "args": [{"index": 2, "value": 2048, "valueTwo": 2048, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
    ));
    chmod(file.path(), 0o755).unwrap();
    let refused = chmod(file.path(), 0o4755).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert_eq!(
        fs::metadata(file.path()).unwrap().permissions().mode() & 0o7777,
        0o755
    );
}

#[test]
fn kill_process_kills() {
    assert_eq!(run_case("kill").signal(), Some(libc::SIGSYS));
}

fn child_kill() {
    install(&profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
    ));
    let _ = nix::unistd::sethostname("husk-seccomp-test");
}

#[test]
fn the_kernel_takes_all_flags() {
    assert!(run_case("flags").success());
}

fn child_flags() {
    install(&profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                      "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls": [{"names": ["umount2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30}]}"#,
    ));
    assert_eq!(nix::mount::umount("/nowhere"), Err(Errno::EROFS));
    // All threads got it.
    let elsewhere = std::thread::spawn(|| nix::mount::umount("/nowhere"));
    assert_eq!(elsewhere.join().unwrap(), Err(Errno::EROFS));
}

#[test]
fn a_bad_program_is_an_error() {
    let error = sys::seccomp::install(&[], 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}
