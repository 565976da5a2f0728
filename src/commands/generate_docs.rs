//! `generate-docs DIR`, which `--help` does not show: manual pages into `DIR/man`, completions for bash, zsh and fish into
//! `DIR/completions`, all of it from the command line's own description. `make deb` puts them into the package.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::Cli;

/// Arguments of `generate-docs`.
#[derive(Debug, Clone, Args)]
pub struct GenerateDocsArgs {
    /// Where to; made if it is missing.
    pub directory: PathBuf,
}

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("writing manual pages and completions into {}", directory.display())]
pub struct GenerateDocsError {
    directory: PathBuf,
    source: io::Error,
}

/// Writes all of it.
pub fn run(args: &GenerateDocsArgs) -> Result<(), GenerateDocsError> {
    let directory = &args.directory;
    write_all(directory).map_err(|source| GenerateDocsError { directory: directory.clone(), source })
}

fn write_all(directory: &Path) -> io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "usage-processor", &completions)?;
    }
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    write_pages(&program, &man)
}

/// A command's page, and those of its subcommands.
fn write_pages(command: &Command, directory: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_pages(subcommand, directory)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let man = Man::new(command.clone()).title(name.to_uppercase()).manual("usage-processor");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    exit_status(command).to_writer(&mut page)?;
    fs::write(directory.join(man.get_filename()), page)
}

/// The command's exit codes in its `--help`, in the words and in the place where manual pages have them.
fn exit_status(command: &Command) -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["EXIT STATUS"]);
    let codes = command.get_after_long_help().or_else(|| command.get_after_help());
    for line in codes.map(ToString::to_string).unwrap_or_default().lines().skip(1) {
        match line.trim().split_once("  ") {
            Some((code, meaning)) if code.bytes().all(|byte| byte.is_ascii_digit()) => {
                section.control("TP", []).text([bold(code)]).text([roman(meaning.trim())]);
            }
            _ => {
                section.text([roman(line.trim())]); // A line that goes on.
            }
        }
    }
    section
}
