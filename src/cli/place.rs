//! Where a verb's work is done: in this process, or by a server.

use clap::Args;

use super::{CliError, remote::ServerArguments};

/// This process, or which server.
#[derive(Debug, Clone, Args)]
pub(super) struct PlaceArguments {
    /// Do the work in this process, without a server.
    #[cfg(feature = "server")]
    #[arg(long, conflicts_with_all = [
        "server", "token_file", "ca_file", "client_certificate", "client_key", "json",
    ])]
    pub(super) local: bool,
    #[command(flatten)]
    pub(super) server: ServerArguments,
}

impl PlaceArguments {
    /// The server that was named, where nothing was given that only this process understands.
    pub(super) fn server(
        &self,
        only_local: &[(&'static str, bool)],
    ) -> Result<&ServerArguments, CliError> {
        self.server.address().map_err(|error| {
            if cfg!(feature = "server") {
                CliError::Usage(format!("{error}, or use --local to work in this process"))
            } else {
                error.into()
            }
        })?;
        match only_local.iter().find(|(_, given)| *given) {
            None => Ok(&self.server),
            Some((flag, _)) => Err(CliError::Usage(format!(
                "{flag} is for --local and means nothing to a server; leave it out"
            ))),
        }
    }
}

/// A value that one of the two places cannot do without.
pub(super) fn needed<'a, T: ?Sized>(
    value: Option<&'a T>,
    flag: &str,
    place: &str,
) -> Result<&'a T, CliError> {
    value.ok_or_else(|| CliError::Usage(format!("{flag} is missing; {place} needs it")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        place: PlaceArguments,
    }

    #[test]
    fn what_a_server_would_pass_over_is_refused() {
        let line = Line::try_parse_from(["keystep", "--server", "http://127.0.0.1:1"]).unwrap();
        assert!(line.place.server(&[("--out", false)]).is_ok());
        let error = line.place.server(&[("--sheet", false), ("--out", true)]).unwrap_err();
        assert!(error.to_string().starts_with("--out is for --local"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[cfg(feature = "server")]
    #[test]
    fn there_is_one_place() {
        let both = ["keystep", "--local", "--server", "http://127.0.0.1:1"];
        assert!(Line::try_parse_from(both).is_err());
        assert!(Line::try_parse_from(["keystep", "--local", "--json"]).is_err());
        assert!(Line::try_parse_from(["keystep", "--local"]).unwrap().place.local);
    }
}
