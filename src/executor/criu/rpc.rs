//! The messages of criu's service mode that husk says and hears: protobuf, a few fields of many. The numbers are criu's
//! contract; what is not set keeps criu's own default.

/// What is asked, and the kind of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Type {
    /// Nothing.
    Empty = 0,
    /// Write the processes down.
    Dump = 1,
    /// Make them again.
    Restore = 2,
    /// criu has reached a stage and waits for a word.
    Notify = 6,
}

/// What criu does about control groups.
pub const CGROUPS_IGNORED: i32 = 0;

/// To criu.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// What to do.
    #[prost(enumeration = "Type", required, tag = "1")]
    pub kind: i32,
    /// How.
    #[prost(message, optional, tag = "2")]
    pub options: Option<Options>,
    /// Answer to a notification: go on.
    #[prost(bool, optional, tag = "3")]
    pub notify_success: Option<bool>,
}

/// How to dump or restore. Descriptors are the caller's own: criu finds them by `/proc`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Options {
    /// Directory of the images.
    #[prost(int32, required, tag = "1")]
    pub images_dir_fd: i32,
    /// First process of the tree to dump.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    /// Let the processes go on after a dump.
    #[prost(bool, optional, tag = "3")]
    pub leave_running: Option<bool>,
    /// Unix sockets may be connected to processes that are not part of the dump.
    #[prost(bool, optional, tag = "4")]
    pub ext_unix_sk: Option<bool>,
    /// Take file locks along.
    #[prost(bool, optional, tag = "8")]
    pub file_locks: Option<bool>,
    /// From 0, silence, to 4, everything.
    #[prost(int32, optional, tag = "9")]
    pub log_level: Option<i32>,
    /// Name of the log in the work directory.
    #[prost(string, optional, tag = "10")]
    pub log_file: Option<String>,
    /// Ask before going on at each stage.
    #[prost(bool, optional, tag = "12")]
    pub notify_scripts: Option<bool>,
    /// Mount point that becomes the root of what is restored.
    #[prost(string, optional, tag = "13")]
    pub root: Option<String>,
    /// Directory of the log and of statistics.
    #[prost(int32, optional, tag = "17")]
    pub work_dir_fd: Option<i32>,
    /// Make the first restored process a child of criu's parent.
    #[prost(bool, optional, tag = "26")]
    pub rst_sibling: Option<bool>,
    /// Descriptors, by number in criu's own process, that stand for what is not in the images.
    #[prost(message, repeated, tag = "27")]
    pub inherit_fd: Vec<InheritFd>,
    /// See [`CGROUPS_IGNORED`].
    #[prost(int32, optional, tag = "34")]
    pub manage_cgroups_mode: Option<i32>,
    /// What is not in the images but comes from outside: `mnt[path]:key`, `net[inode]:key`, `pid[inode]:key`.
    #[prost(string, repeated, tag = "37")]
    pub external: Vec<String>,
    /// Namespaces to enter.
    #[prost(message, repeated, tag = "39")]
    pub join_ns: Vec<JoinNamespace>,
    /// Do not take TCP connections along.
    #[prost(bool, optional, tag = "52")]
    pub tcp_close: Option<bool>,
    /// The security module's label instead of that in the images: `apparmor:<profile>` or `selinux:<label>`.
    #[prost(string, optional, tag = "53")]
    pub lsm_profile: Option<String>,
    /// SELinux label of what criu mounts, instead of that in the images.
    #[prost(string, optional, tag = "63")]
    pub lsm_mount_context: Option<String>,
}

/// A descriptor in place of what is not in the images.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InheritFd {
    /// What it stands for.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// Its number in criu's process.
    #[prost(int32, required, tag = "2")]
    pub fd: i32,
}

/// A namespace to enter.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JoinNamespace {
    /// Its kind as in `/proc/<pid>/ns`.
    #[prost(string, required, tag = "1")]
    pub kind: String,
    /// A file that is the namespace.
    #[prost(string, required, tag = "2")]
    pub file: String,
}

/// From criu.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    /// What it answers, or [`Type::Notify`].
    #[prost(enumeration = "Type", required, tag = "1")]
    pub kind: i32,
    /// It worked.
    #[prost(bool, required, tag = "2")]
    pub success: bool,
    /// What was restored.
    #[prost(message, optional, tag = "4")]
    pub restored: Option<Restored>,
    /// The stage that criu has reached.
    #[prost(message, optional, tag = "5")]
    pub notify: Option<Notify>,
    /// Error number of the failure.
    #[prost(int32, optional, tag = "7")]
    pub errno: Option<i32>,
    /// The first complaint in its log; criu has said it since 3.18.
    #[prost(string, optional, tag = "9")]
    pub message: Option<String>,
}

/// What was restored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Restored {
    /// The first process, as criu counts.
    #[prost(int32, required, tag = "1")]
    pub pid: i32,
}

/// A stage.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Notify {
    /// Its name, such as `post-dump`.
    #[prost(string, optional, tag = "1")]
    pub stage: Option<String>,
    /// The process it is about.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
}
