//! The husk program. Picks the personality before any thread or runtime exists.

use std::process::ExitCode;

fn main() -> ExitCode {
    husk::cli::main()
}
