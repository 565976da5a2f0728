//! The SQL of `migrations/`, embedded at compile time: one list per profile, oldest first, with the same numbers and
//! names in both, and mostly the same files. Pure data; nothing here talks to a server.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::Profile;

/// One step of the schema and the way back.
#[derive(Debug, PartialEq, Eq)]
pub struct Migration {
    /// The platform's number; ours begin at 4.
    pub version: i32,
    /// What it does, in `snake_case`.
    pub name: &'static str,
    /// SQL that applies it.
    pub up: &'static str,
    /// SQL that reverses it.
    pub down: &'static str,
}

impl Migration {
    /// Number and name as in the file's name: `004_create_usage_events`.
    pub fn label(&self) -> String {
        label(self.version, self.name)
    }

    /// The tables that reversing it drops, with all that is in them.
    pub(super) fn tables_dropped(&self) -> Vec<&'static str> {
        let lists = self.down.split("DROP TABLE IF EXISTS ").skip(1);
        lists.flat_map(|rest| rest.split(';').next().unwrap_or_default().split(',')).map(str::trim).collect()
    }

    /// SHA-256 of the text that applies it, in hexadecimal. The way back is left out: mending it must stay possible.
    pub(super) fn checksum(&self) -> String {
        Sha256::digest(self.up).iter().fold(String::new(), |mut hex, byte| {
            // Writing to a String cannot fail.
            _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// Number and name as in a file's name.
pub(super) fn label(version: i32, name: &str) -> String {
    format!("{version:03}_{name}")
}

/// The migrations of a profile, oldest first.
pub(super) fn of(profile: Profile) -> &'static [Migration] {
    match profile {
        Profile::TimescaleDb => TIMESCALEDB,
        Profile::PostgreSql => POSTGRESQL,
    }
}

/// The migration of that number, if this program knows it.
pub(super) fn find(profile: Profile, version: i32) -> Option<&'static Migration> {
    of(profile).iter().find(|migration| migration.version == version)
}

macro_rules! migrations {
    ($($folder:literal $number:literal $version:literal $name:literal,)+) => {
        &[$(Migration {
            version: $version,
            name: $name,
            up: include_str!(concat!("../../migrations/", $folder, "/", $number, "_", $name, ".up.sql")),
            down: include_str!(concat!("../../migrations/", $folder, "/", $number, "_", $name, ".down.sql")),
        }),+]
    };
}

/// What both profiles share lies in `common`.
macro_rules! every_migration_of {
    ($folder:literal) => {
        migrations! {
            $folder "004" 4 "create_usage_events",
            "common" "005" 5 "create_usage_dead_letters",
            "common" "006" 6 "create_usage_figures",
            "common" "007" 7 "record_late_events",
            "common" "008" 8 "fold_usage_events",
            "common" "009" 9 "create_usage_views",
            "common" "010" 10 "create_usage_functions",
            "common" "011" 11 "create_usage_ledger",
            "common" "012" 12 "track_dead_letters",
            $folder "013" 13 "find_droppable_events",
            "common" "014" 14 "apply_retention",
            "common" "015" 15 "close_months",
            "common" "016" 16 "grant_roles",
            "common" "017" 17 "maintain_usage",
            $folder "018" 18 "schedule_maintenance",
            $folder "019" 19 "find_parts",
            "common" "020" 20 "index_time_by_blocks",
            "common" "021" 21 "fold_touched_spans",
            "common" "022" 22 "remove_smoke_events",
        }
    };
}

const TIMESCALEDB: &[Migration] = every_migration_of!("timescaledb");
const POSTGRESQL: &[Migration] = every_migration_of!("postgresql");

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folders_is_embedded_and_in_order() {
        for profile in [Profile::TimescaleDb, Profile::PostgreSql] {
            let mut found: Vec<String> = ["common", profile.as_str()]
                .iter()
                .flat_map(|folder| std::fs::read_dir(Path::new("migrations").join(folder)).unwrap())
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            let embedded: Vec<String> = of(profile)
                .iter()
                .flat_map(|migration| ["down", "up"].map(|way| format!("{}.{way}.sql", migration.label())))
                .collect();
            assert_eq!(found, embedded);
        }
    }

    #[test]
    fn the_tables_that_go_with_a_migration_are_found_in_it() {
        let dropped = |version| find(Profile::TimescaleDb, version).unwrap().tables_dropped();
        assert_eq!(dropped(4), ["usage_events"]);
        assert_eq!(dropped(6).len(), 9);
        assert!(dropped(6).contains(&"usage_adjustments") && dropped(6).contains(&"usage_bounds"));
        assert!(dropped(9).is_empty());
    }

    #[test]
    fn the_checksum_is_sha_256_in_hexadecimal() {
        let migration = Migration { version: 1, name: "abc", up: "abc", down: "" };
        assert_eq!(migration.checksum(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
