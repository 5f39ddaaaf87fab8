//! The command-line tool: `ferrite --help`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = ferrite::cli::Arguments::parse();
    match ferrite::cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ferrite: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
