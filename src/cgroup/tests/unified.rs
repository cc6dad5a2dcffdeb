//! Version 2 on a real unified hierarchy, which a hybrid node has too, if without the controllers.

use std::fs;
use std::os::fd::AsFd;

use super::super::group::Tree;
use super::*;
use crate::sys::bpf;

/// A cgroup of the test's own. Made by hand, so that no controllers are handed down on a node that does not expect it.
struct Unified {
    cgroup: Cgroup,
    dir: PathBuf,
}

impl Unified {
    fn new() -> Option<Self> {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let root = root
            .into_iter()
            .find(|r| r.join("cgroup.subtree_control").exists())?;
        let dir = root.join(unique());
        fs::create_dir(&dir).unwrap();
        Some(Self {
            cgroup: Tree::V2(dir.clone()).into(),
            dir,
        })
    }
}

impl Drop for Unified {
    fn drop(&mut self) {
        let done = self.cgroup.kill().and_then(|()| self.cgroup.remove());
        if !std::thread::panicking() {
            done.unwrap();
        }
    }
}

#[test]
fn freezes_thaws_and_kills_a_tree() {
    let Some(home) = Unified::new() else { return };
    let exec = home.cgroup.exec_child("e").unwrap();
    let mut init = Shell::run(&home.cgroup, "exec sleep 1000");
    let mut other = Shell::run(&exec, "sleep 1000 & exec sleep 1000");
    until("three processes", || home.cgroup.processes().unwrap().len() == 3);

    home.cgroup.freeze().unwrap();
    assert!(read(&home.dir.join("cgroup.events")).contains("frozen 1"));
    home.cgroup.thaw().unwrap();
    until("thawed", || {
        read(&home.dir.join("cgroup.events")).contains("frozen 0")
    });

    Cgroup::from_join(&exec.join()).kill().unwrap();
    assert_eq!(other.signal(), Some(9));
    assert_eq!(home.cgroup.processes().unwrap(), [init.pid()]);
    exec.remove().unwrap();

    home.cgroup.freeze().unwrap();
    home.cgroup.kill().unwrap();
    assert_eq!(init.signal(), Some(9));
}

#[test]
fn kills_without_cgroup_kill_as_well() {
    let Some(home) = Unified::new() else { return };
    let mut shell = Shell::run(
        &home.cgroup,
        "bomb() { bomb | bomb & }; ulimit -u 300; while :; do (sleep 5) & done",
    );
    until("it has spread", || home.cgroup.processes().unwrap().len() > 50);
    kill::kill_by_signal(&home.dir, kill::Freezer::V2).unwrap();
    assert!(home.cgroup.processes().unwrap().is_empty());
    assert_eq!(shell.signal(), Some(9));
}

fn attached(home: &Unified) -> usize {
    bpf::device_programs(fs::File::open(&home.dir).unwrap().as_fd())
        .unwrap()
        .len()
}

#[test]
fn device_rules_hold_and_never_pile_up() {
    let Some(home) = Unified::new() else { return };
    let opens = |path: &str| {
        let mut shell = Shell::run(&home.cgroup, &format!("(: < {path}) && exit 0 || exit 3"));
        shell.0.wait().unwrap().success()
    };
    assert!(opens("/dev/kmsg"));
    let none = oci(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
    let kmsg = oci(
        r#"{"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]}"#,
    );
    for _ in 0..70 {
        home.cgroup.apply(&none).unwrap();
        assert_eq!(attached(&home), 1);
    }
    assert!(!opens("/dev/kmsg") && opens("/dev/null") && opens("/dev/urandom"));
    home.cgroup.apply(&kmsg).unwrap();
    assert!(opens("/dev/kmsg"));
    assert_eq!(attached(&home), 1);
    home.cgroup
        .apply(&oci(r#"{"devices": [{"allow": true, "access": "rwm"}]}"#))
        .unwrap();
    assert_eq!(attached(&home), 0);
    assert!(opens("/dev/kmsg"));
}

#[test]
fn statistics_without_controllers_are_what_there_is() {
    let Some(home) = Unified::new() else { return };
    let _shell = Shell::run(&home.cgroup, "while :; do :; done");
    until("CPU time passes", || {
        home.cgroup.stats().unwrap().cpu.usage_nanos > 0
    });
    let stats = home.cgroup.stats().unwrap();
    assert_eq!(
        stats.cpu_pressure.is_some(),
        Path::new("/proc/pressure/cpu").exists()
    );
}
