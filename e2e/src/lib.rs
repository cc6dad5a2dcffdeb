//! End-to-end suites: they talk to a running husk from outside.
