//! The program: parse the command line, run the command, print the error chain, exit code.

use std::process::ExitCode;

use clap::Parser;
use usage_processor::cli::{Cli, Command};
use usage_processor::commands::{
    audit, check_config, connect, dead_letters, demo, exit_code_of, generate, generate_docs, latency,
    maintain, migrate, rewind, run, smoke, status,
};
use usage_processor::config::{ConfigError, maintenance_config};
use usage_processor::error_chain::error_chain;
use usage_processor::logging;
use usage_processor::stage::BoxedError;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let started = logging::start(&cli.log_level, &cli.log_format).map_err(BoxedError::from);
    let exit_code = match started.and_then(|()| dispatch(&cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", error_chain(error.as_ref()));
            ExitCode::from(exit_code_of(error.as_ref()))
        }
    };
    logging::finish();
    exit_code
}

fn dispatch(command: &Command) -> Result<(), BoxedError> {
    match command {
        Command::Run(args) => Ok(run::run(args)?),
        Command::CheckConfig(args) => Ok(check_config::run(args)?),
        Command::Migrate { database, migrate: args } => {
            let config = maintenance_config(database).map_err(ConfigError::from)?;
            Ok(migrate::run(args, &mut connect::connect(&config)?)?)
        }
        Command::DeadLetters(args) => Ok(dead_letters::run(args)?),
        Command::Maintain(args) => Ok(maintain::run(args)?),
        Command::Audit(args) => Ok(audit::run(args)?),
        Command::Rewind(args) => Ok(rewind::run(args)?),
        Command::Generate(args) => Ok(generate::run(args)?),
        Command::Latency(args) => Ok(latency::run(args)?),
        Command::Status(args) => Ok(status::run(args)?),
        Command::Demo(args) => Ok(demo::run(args)?),
        Command::Smoke(args) => Ok(smoke::run(args)?),
        Command::GenerateDocs(args) => Ok(generate_docs::run(args)?),
    }
}
