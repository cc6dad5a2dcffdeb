//! One documented TOML file, its drop-ins and the flags that override it.
