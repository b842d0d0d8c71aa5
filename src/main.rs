//! The program `keystep`; everything is in [`keystep::cli`].

fn main() -> std::process::ExitCode {
    keystep::cli::run()
}
