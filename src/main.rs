//! The command `trunkline`: hands the arguments over and turns the outcome into an exit code.

use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    // First thing: whoever opens a TLS connection later must find the one provider this program ships.
    let _ = rustls::crypto::ring::default_provider().install_default();
    trunkline::cli::main(std::env::args_os())
}
