//! What a test may ask of its daemon.

/// How a test wants its daemon.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub(crate) network: Network,
    pub(crate) toml: String,
    pub(crate) hosts: Vec<(String, String)>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) plugins: Vec<(String, String)>,
    pub(crate) quiet: bool,
    pub(crate) executor_only: bool,
    pub(crate) activated: bool,
    pub(crate) crowd: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Network {
    #[default]
    None,
    Builtin,
    Cni,
}

impl Options {
    /// No network, no mirrors: enough for pods on the host's network.
    pub fn new() -> Self {
        Self::default()
    }

    /// Switches the built-in bridge on.
    #[must_use]
    pub fn builtin_network(mut self) -> Self {
        self.network = Network::Builtin;
        self
    }

    /// Configures the reference CNI plugins.
    #[must_use]
    pub fn cni(mut self) -> Self {
        self.network = Network::Cni;
        self
    }

    /// Adds text to the configuration file: whole tables, not `[cgroup]` or `[network]`.
    #[must_use]
    pub fn toml(mut self, text: &str) -> Self {
        self.toml += text;
        self
    }

    /// Configures a registry host by a `hosts.toml`.
    #[must_use]
    pub fn hosts(mut self, host: &str, toml: &str) -> Self {
        self.hosts.push((host.into(), toml.into()));
        self
    }

    /// Logs warnings only.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Room for thousands of pods, and time: half an hour instead of five minutes.
    #[must_use]
    pub fn crowd(mut self) -> Self {
        self.crowd = true;
        self
    }

    /// Passes the daemon a listening socket, as systemd would, and keeps it open when the daemon dies.
    #[must_use]
    pub fn activated(mut self) -> Self {
        self.activated = true;
        self
    }

    /// Adds a CNI plugin that is a shell script, found before the reference plugins.
    #[must_use]
    pub fn plugin(mut self, name: &str, script: &str) -> Self {
        self.plugins.push((name.into(), script.into()));
        self
    }

    /// Is about what only husk's own executor does: `HUSK_E2E_RUNTIME` does not count.
    #[must_use]
    pub fn executor_only(mut self) -> Self {
        self.executor_only = true;
        self
    }

    /// Adds a variable to the daemon's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}
