//! OCI runtime specs and seccomp profiles.

use super::{Seed, bytes};

/// `config.json`.
pub fn specs() -> Vec<Seed> {
    [
        (
            "small",
            r#"{"ociVersion":"1.0.0","root":{"path":"rootfs"},"process":{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0}},"linux":{"namespaces":[{"type":"mount"}]}}"#,
        ),
        (
            "full",
            r#"{"ociVersion":"1.2.0","root":{"path":"rootfs","readonly":true},"hostname":"pod","domainname":"example","process":{"terminal":true,"consoleSize":{"height":24,"width":80},"user":{"uid":1000,"gid":1000,"umask":18,"additionalGids":[5,6]},"args":["/bin/app","-x"],"env":["PATH=/bin","A=B"],"cwd":"/home","capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"],"inheritable":[],"ambient":[]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":1024,"soft":1024}],"noNewPrivileges":true,"oomScoreAdj":100,"apparmorProfile":"p","selinuxLabel":"system_u:system_r:svirt_t:s0:c1,c2","ioPriority":{"class":"IOPRIO_CLASS_BE","priority":4},"scheduler":{"policy":"SCHED_OTHER","nice":5,"flags":["SCHED_FLAG_RESET_ON_FORK"]}},"mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec"]},{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["mode=755","size=65536k","strictatime"]},{"destination":"/data","type":"bind","source":"/srv","options":["rbind","rslave","rro"],"uidMappings":[{"hostID":100000,"containerID":0,"size":65536}],"gidMappings":[{"hostID":100000,"containerID":0,"size":65536}]},{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["ro"]},{"destination":"/tmp","type":"tmpfs","options":["tmpcopyup"]}],"hooks":{"createContainer":[{"path":"/bin/hook","args":["hook"],"env":["X=1"],"timeout":5}],"startContainer":[{"path":"/bin/hook"}]},"annotations":{"a":"b"},"linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"network","path":"/run/netns/x"},{"type":"ipc"},{"type":"uts"},{"type":"user"},{"type":"cgroup"},{"type":"time"}],"uidMappings":[{"hostID":100000,"containerID":0,"size":65536}],"gidMappings":[{"hostID":100000,"containerID":0,"size":65536}],"timeOffsets":{"boottime":{"secs":5,"nanosecs":7}},"sysctl":{"net.ipv4.ip_forward":"1","kernel.shmmax":"4"},"devices":[{"path":"/dev/fuse","type":"c","major":10,"minor":229,"fileMode":438,"uid":0,"gid":0}],"cgroupsPath":"/x","resources":{"memory":{"limit":1000000,"swap":2000000},"cpu":{"shares":2,"quota":-1,"period":100000,"cpus":"0"},"pids":{"limit":7},"devices":[{"allow":false,"access":"rwm"}]},"rootfsPropagation":"rslave","maskedPaths":["/proc/kcore"],"readonlyPaths":["/proc/sys"],"personality":{"domain":"LINUX32"},"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}}}"#,
        ),
    ]
    .map(|(name, text)| (name, bytes(text)))
    .into()
}

/// Seccomp profiles.
pub fn profiles() -> Vec<Seed> {
    [
        (
            "docker",
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]},{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],"syscalls":[{"names":["read","write","exit_group"],"action":"SCMP_ACT_ALLOW"},{"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}],"excludes":{"caps":["CAP_SYS_ADMIN"],"arches":["s390","s390x"]}},{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"op":"SCMP_CMP_NE"}]},{"names":["bpf"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#,
        ),
        (
            "oci",
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],"flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{"names":["personality"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":8,"op":"SCMP_CMP_GE"},{"index":1,"value":18446744073709551615,"op":"SCMP_CMP_LT"}]},{"names":["mount","socketcall","ipc"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
        ),
        ("old", r#"{"defaultAction":"SCMP_ACT_KILL","syscalls":[{"name":"read","action":"SCMP_ACT_ALLOW","args":null}]}"#),
    ]
    .map(|(name, text)| (name, bytes(text)))
    .into()
}
