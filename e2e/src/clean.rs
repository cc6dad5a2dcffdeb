//! What one test's daemon occupies on the machine, found by names that only it uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest as _, Sha256};

use crate::network::Names;
use crate::process;

/// The names to look for.
#[derive(Debug, Clone)]
pub struct Footprint {
    /// The test's directory.
    pub dir: PathBuf,
    /// Its name, which is also that of its cgroup, of its CNI network, and in its processes' environment.
    pub tag: String,
    /// Its bridge and subnet.
    pub names: Names,
}

impl Footprint {
    /// What pods left, while the daemon is still running and may keep network namespaces ready.
    pub fn leftovers_of_pods(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        found.extend(
            self.pod_cgroups()
                .iter()
                .map(|c| format!("cgroup {}", c.display())),
        );
        // The daemon's own helper, from which supervisors are forked, ends with the daemon.
        let helper = |pid: &i32| process::file(*pid, "comm") == b"husk-template\n";
        found.extend(
            self.processes_in_cgroup()
                .iter()
                .filter(|p| !helper(p))
                .map(|&p| describe(p)),
        );
        found.extend(self.bridge_ports().iter().map(|p| format!("interface {p}")));
        found.extend(self.firewall_rules().iter().map(|r| format!("firewall rule {r}")));
        found.extend(self.addresses().iter().map(|a| format!("allocated address {a}")));
        found.extend(
            self.named_files()?
                .into_iter()
                .filter(|f| !self.is_image_store(f))
                .map(file),
        );
        Ok(found)
    }

    /// What removed images left.
    pub fn leftovers_of_images(&self) -> Result<Vec<String>> {
        let mut found: Vec<_> = self
            .named_files()?
            .into_iter()
            .filter(|f| self.is_image_store(f))
            .map(file)
            .collect();
        let bytes = self.bytes()?;
        if bytes > 1 << 20 {
            found.push(format!(
                "{bytes} bytes of files in {}/{{root,run}}",
                self.dir.display()
            ));
        }
        Ok(found)
    }

    /// What is left when the daemon has ended too.
    pub fn leftovers_of_daemon(&self) -> Result<Vec<String>> {
        let mut found = [self.leftovers_of_pods()?, self.leftovers_of_images()?].concat();
        found.extend(self.mounts().iter().map(|m| format!("mount {}", m.display())));
        found.extend(self.processes_by_tag().iter().map(|&p| describe(p)));
        found.extend(self.table().map(|name| format!("packet filter table {name}")));
        Ok(found)
    }

    /// The packet filter table of the daemon, if it is there: named by a digest of where its network's state is.
    fn table(&self) -> Option<String> {
        let state = fs::canonicalize(self.dir.join("root/network")).ok()?;
        let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
        let tag: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("husk-{tag}");
        let listed = Command::new("nft")
            .args(["list", "table", "inet", &name])
            .output()
            .is_ok_and(|output| output.status.success());
        listed.then_some(name)
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        text.lines()
            .filter_map(|l| l.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|p| p.starts_with(&self.dir))
            .collect()
    }

    /// Every cgroup of this test, children before parents.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in hierarchies() {
            descend(&hierarchy.join(&self.tag), &mut found);
        }
        found
    }

    /// Cgroups other than the test's own parent and what the daemon keeps for itself directly below it.
    fn pod_cgroups(&self) -> Vec<PathBuf> {
        let own =
            |path: &PathBuf| path.ends_with(&self.tag) || path.ends_with(format!("{}/supervisors", self.tag));
        self.cgroups().into_iter().filter(|c| !own(c)).collect()
    }

    fn processes_in_cgroup(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .cgroups()
            .iter()
            .flat_map(|c| {
                fs::read_to_string(c.join("cgroup.procs"))
                    .unwrap_or_default()
                    .lines()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter_map(|l| l.parse().ok())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    fn processes_by_tag(&self) -> Vec<i32> {
        let wanted = format!("HUSK_E2E_TAG={}\0", self.tag).into_bytes();
        let tagged = |pid: i32| {
            process::file(pid, "environ")
                .windows(wanted.len())
                .any(|w| w == wanted)
        };
        process::all().into_iter().filter(|&pid| tagged(pid)).collect()
    }

    fn bridge_ports(&self) -> Vec<String> {
        let dir = format!("/sys/class/net/{}/brif", self.names.bridge);
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Rules that name an address of a pod or this test's CNI network. A rule for the whole subnet may stay as long as
    /// the bridge does.
    fn firewall_rules(&self) -> Vec<String> {
        let mut found = Vec::new();
        for program in [
            ["nft", "list", "ruleset"].as_slice(),
            &["iptables-save"],
            &["ip6tables-save"],
        ] {
            let Ok(output) = Command::new(program[0]).args(&program[1..]).output() else {
                continue;
            };
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let without_subnet = line.replace(&self.names.subnet, "");
                if without_subnet.contains(self.names.prefix()) || line.contains(&format!("\"{}\"", self.tag))
                {
                    found.push(line.trim().to_owned());
                }
            }
        }
        found
    }

    /// Addresses that host-local still holds for a pod.
    fn addresses(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("ipam").join(&self.tag))
            .into_iter()
            .flatten()
            .flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        names.filter(|n| n.starts_with(self.names.prefix())).collect()
    }

    fn is_image_store(&self, path: &Path) -> bool {
        path.starts_with(self.dir.join("root/images"))
    }

    /// Files in the daemon's directories that are named by the id of a pod, a container, an image or a layer.
    fn named_files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        self.walk_own(&mut |path, _| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_id = |part: &str| part.len() >= 32 && part.bytes().all(|b| b.is_ascii_hexdigit());
            if name.split(['.', '-', ':', '_']).any(is_id) {
                found.push(path.to_owned());
            }
        })?;
        Ok(found)
    }

    /// The size of all files in the daemon's directories but the database.
    fn bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        self.walk_own(&mut |path, meta| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if meta.is_file() && !name.contains(".db") {
                bytes += meta.len();
            }
        })?;
        Ok(bytes)
    }

    fn walk_own(&self, visit: &mut dyn FnMut(&Path, &fs::Metadata)) -> Result<()> {
        walk(&self.dir.join("root"), visit)?;
        walk(&self.dir.join("run"), visit)
    }

    /// Removes everything by force. For the end of a test that failed; a test that passed left nothing but the
    /// directory, the empty parent cgroup and the bridge.
    pub fn wipe(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut pids = self.processes_in_cgroup();
            pids.extend(self.processes_by_tag());
            if pids.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in pids {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for mount in self.mounts().iter().rev() {
            let _ = umount2(mount, MntFlags::MNT_DETACH);
        }
        for cgroup in self.cgroups() {
            let _ = fs::remove_dir(cgroup);
        }
        if Path::new("/sys/class/net").join(&self.names.bridge).exists() {
            let _ = Command::new("ip")
                .args(["link", "delete", &self.names.bridge])
                .output();
        }
        if let Some(table) = self.table() {
            let _ = Command::new("nft")
                .args(["delete", "table", "inet", &table])
                .output();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn file(path: PathBuf) -> String {
    format!("file {}", path.display())
}

fn hierarchies() -> Vec<PathBuf> {
    if process::is_v2() {
        return vec!["/sys/fs/cgroup".into()];
    }
    let entries = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| p.is_dir()).collect()
}

fn descend(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            descend(&entry.path(), found);
        }
    }
    found.push(dir.to_owned());
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else {
            continue;
        };
        visit(&entry.path(), &meta);
        if meta.is_dir() {
            walk(&entry.path(), visit)?;
        }
    }
    Ok(())
}

fn describe(pid: i32) -> String {
    let name = String::from_utf8_lossy(&process::file(pid, "comm"))
        .trim()
        .to_owned();
    format!("process {pid} ({name}) {}", process::command(pid))
}
