//! The subcommands, one file each: thin, from command line to library calls.

pub mod audit;
pub mod check_config;
pub mod connect;
pub mod dead_letters;
pub mod demo;
pub mod generate;
pub mod generate_docs;
pub mod latency;
pub mod maintain;
pub mod migrate;
pub mod progress_bar;
pub mod rewind;
pub mod run;
pub mod run_summary;
pub mod smoke;
pub mod status;
pub mod table;

use std::error::Error;

use crate::cli::exit_code;
use crate::commands::audit::AuditCommandError;
use crate::commands::check_config::CheckConfigError;
use crate::commands::connect::{ConnectError, SetupError};
use crate::commands::dead_letters::DeadLettersError;
use crate::commands::generate::GenerateCommandError;
use crate::commands::maintain::MaintainError;
use crate::commands::migrate::MigrateCommandError;
use crate::commands::rewind::RewindError;
use crate::commands::run::RunError;
use crate::commands::smoke::SmokeCommandError;
use crate::commands::status::StatusError;
use crate::config::ConfigError;
use crate::decode::circuit_breaker::DecodeError;
use crate::pipeline::PipelineError;
use crate::poll::poller::PollError;
use crate::stage::StageError;

/// The exit code that a command's error asks for.
pub fn exit_code_of(error: &(dyn Error + 'static)) -> u8 {
    if let Some(error) = error.downcast_ref::<RunError>() {
        return exit_code_of_run(error);
    }
    match error.downcast_ref::<CheckConfigError>() {
        Some(CheckConfigError::Config(_)) => return exit_code::CONFIGURATION,
        Some(CheckConfigError::Problems(_)) => return exit_code::REFUSED,
        Some(CheckConfigError::Print(_)) | None => {}
    }
    if let Some(GenerateCommandError::Config(_)) = error.downcast_ref() {
        return exit_code::CONFIGURATION;
    }
    match error.downcast_ref::<DeadLettersError>() {
        Some(DeadLettersError::Unconfirmed { .. }) => return exit_code::CONFIGURATION,
        Some(DeadLettersError::Setup(error)) => return exit_code_of_setup(error),
        Some(_) | None => {}
    }
    match error.downcast_ref::<AuditCommandError>() {
        Some(AuditCommandError::Inconsistent(_)) => return exit_code::INCONSISTENT,
        Some(AuditCommandError::Setup(error)) => return exit_code_of_setup(error),
        Some(_) | None => {}
    }
    match error.downcast_ref::<MaintainError>() {
        Some(MaintainError::Setup(error)) => return exit_code_of_setup(error),
        Some(MaintainError::Refused(_)) => return exit_code::REFUSED,
        Some(_) | None => {}
    }
    match error.downcast_ref::<RewindError>() {
        Some(RewindError::Setup(error)) => return exit_code_of_setup(error),
        Some(
            RewindError::GroupActive { .. }
            | RewindError::NothingToRewind { .. }
            | RewindError::Deleted { .. },
        ) => return exit_code::REFUSED,
        Some(_) | None => {}
    }
    match error.downcast_ref::<StatusError>() {
        Some(StatusError::NoAddress { .. }) => return exit_code::CONFIGURATION,
        Some(StatusError::NoAnswer { .. } | StatusError::Broken { .. } | StatusError::Stranger { .. }) => {
            return exit_code::REFUSED;
        }
        Some(StatusError::NotWell(_) | StatusError::Print(_)) | None => {}
    }
    match error.downcast_ref::<SmokeCommandError>() {
        Some(SmokeCommandError::Setup(error)) => return exit_code_of_setup(error),
        // A server that cannot be used, as `check-config` would say.
        Some(SmokeCommandError::Failed { step: 1, .. }) => return exit_code::REFUSED,
        Some(_) | None => {}
    }
    if error.is::<ConfigError>() {
        exit_code::CONFIGURATION
    } else if error.is::<ConnectError>() || error.is::<MigrateCommandError>() {
        exit_code::REFUSED
    } else {
        exit_code::FAILED
    }
}

fn exit_code_of_run(error: &RunError) -> u8 {
    match error {
        RunError::Setup(error) => exit_code_of_setup(error),
        RunError::Pipeline(PipelineError::Stage(stage)) => exit_code_of_stage(stage),
        // librdkafka has looked at settings and files, and at nothing else yet.
        RunError::Pipeline(PipelineError::Consumer(_) | PipelineError::DeadLetterTopic(_)) => {
            exit_code::CONFIGURATION
        }
        RunError::Pipeline(_)
        | RunError::Signals(_)
        | RunError::Metrics(_)
        | RunError::Listen { .. }
        | RunError::Notifier(_)
        | RunError::Summary(_) => exit_code::FAILED,
    }
}

fn exit_code_of_setup(error: &SetupError) -> u8 {
    match error {
        SetupError::Config(_) => exit_code::CONFIGURATION,
        SetupError::Connect(_) | SetupError::Migrate(_) => exit_code::REFUSED,
        SetupError::Silent { .. } | SetupError::Thread(_) => exit_code::FAILED,
    }
}

fn exit_code_of_stage(error: &StageError) -> u8 {
    match error {
        StageError::DrainTimeout { .. } => exit_code::DRAIN_TIMEOUT,
        StageError::Failed { source, .. } if source.is::<DecodeError>() => exit_code::MOSTLY_REJECTED,
        StageError::Failed { source, .. } => match source.downcast_ref() {
            Some(PollError::EventsLost(_)) => exit_code::EVENTS_LOST,
            Some(PollError::Refused { .. } | PollError::NoTopic { .. } | PollError::Fenced { .. }) => {
                exit_code::REFUSED
            }
            _ => exit_code::FAILED,
        },
        StageError::Panicked { .. } | StageError::Spawn { .. } => exit_code::FAILED,
    }
}
