//! The command line, flag by flag as runc has it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Run OCI bundles with husk's executor, with runc's command line.
#[derive(Debug, Parser)]
#[command(name = "husk oci")]
pub struct Oci {
    /// Where the state of containers is kept; should be on a tmpfs.
    #[arg(long, default_value = "/run/husk/oci")]
    pub root: PathBuf,
    /// Write messages to this file as well as to stderr.
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// Format of the log file.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// More messages.
    #[arg(long)]
    pub debug: bool,
    /// linux.cgroupsPath is slice:prefix:name.
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// What to do.
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// Format of the log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text a message.
    Text,
    /// One JSON object a message.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a container; its process waits for start.
    Create(Create),
    /// Let the process of a created container run.
    Start(Id),
    /// Print the state of a container.
    State(Id),
    /// Send a signal to a container's first process.
    Kill(Kill),
    /// Remove what is left of a container.
    Delete(Delete),
    /// Create, start, wait, delete.
    Run(Run),
    /// Run a further process in a container.
    Exec(Exec),
    /// List containers.
    List(List),
    /// Print what this runtime can do.
    Features,
}

#[derive(Debug, Args)]
pub(super) struct Id {
    /// The container.
    pub id: String,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The container's new name.
    pub id: String,
    /// Directory with config.json and the root file system.
    #[arg(long, short, default_value = ".")]
    pub bundle: PathBuf,
    /// Unix socket that gets the master of the container's terminal.
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    /// File to write the process id to.
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    /// Do not use pivot_root, for a root file system in an initramfs.
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Pass this many descriptors from 3 on.
    #[arg(long, default_value_t = 0)]
    pub preserve_fds: u16,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub create: Create,
    /// Do not wait for the container's end.
    #[arg(long, short)]
    pub detach: bool,
    /// Do not delete the container at its end.
    #[arg(long)]
    pub keep: bool,
    /// Leave processes that lose their parent to the system's init.
    #[arg(long)]
    pub no_subreaper: bool,
}

#[derive(Debug, Args)]
pub(super) struct Kill {
    /// The container.
    pub id: String,
    /// Number or name.
    #[arg(default_value = "SIGTERM")]
    pub signal: String,
    /// Signal all processes of the container.
    #[arg(long, short)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The container.
    pub id: String,
    /// Kill it first if it runs; no error if it does not exist.
    #[arg(long, short)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// How to print.
    #[arg(long, short, value_enum, default_value_t = ListFormat::Table)]
    pub format: ListFormat,
    /// Names only.
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ListFormat {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// The container.
    pub id: String,
    /// Command and arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// JSON file with an OCI process to run instead of a command.
    #[arg(long, short)]
    pub process: Option<PathBuf>,
    /// Run on a terminal.
    #[arg(long, short)]
    pub tty: bool,
    /// UID, or UID:GID.
    #[arg(long, short)]
    pub user: Option<String>,
    /// Further groups.
    #[arg(long, short = 'g')]
    pub additional_gids: Vec<u32>,
    /// Working directory.
    #[arg(long)]
    pub cwd: Option<PathBuf>,
    /// NAME=value, added to the container's environment.
    #[arg(long, short)]
    pub env: Vec<String>,
    /// Capability to add.
    #[arg(long, short)]
    pub cap: Vec<String>,
    /// Set no_new_privs.
    #[arg(long)]
    pub no_new_privs: bool,
    /// AppArmor profile.
    #[arg(long)]
    pub apparmor: Option<String>,
    /// SELinux label.
    #[arg(long)]
    pub process_label: Option<String>,
    /// Do not wait for the process.
    #[arg(long, short)]
    pub detach: bool,
    /// File to write the process id to.
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    /// Unix socket that gets the master of the terminal.
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    /// Pass this many descriptors from 3 on.
    #[arg(long, default_value_t = 0)]
    pub preserve_fds: u16,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Oci::command().debug_assert();
    }

    #[test]
    fn what_containerd_calls_is_understood() {
        let line = "husk-oci --root /r --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file /p \
                    --console-socket /c id";
        let oci = Oci::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!(oci.log_format, LogFormat::Json);
        let Verb::Create(create) = oci.verb else {
            panic!("not create");
        };
        assert_eq!((create.id.as_str(), create.bundle.to_str()), ("id", Some("/b")));
    }

    #[test]
    fn an_exec_keeps_the_flags_of_its_command() {
        let line = "husk-oci exec -t -u 1:2 -e A=b id ls -l --all";
        let Verb::Exec(exec) = Oci::try_parse_from(line.split_whitespace()).unwrap().verb else {
            panic!("not exec");
        };
        assert_eq!(exec.command, ["ls", "-l", "--all"]);
        assert!(exec.tty && !exec.detach);
    }
}
