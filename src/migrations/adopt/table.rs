//! What a foreign `usage_events` looks like, column by column and key by key, and what makes it ours.
//!
//! Reads catalogues and, once, the rows. Out come steps, or obstacles: what only its owner can decide.

use postgres::GenericClient;

use super::{Plan, Step, quoted, texts};

/// A column as the writer and the figures need it.
struct Wanted {
    name: &'static str,
    /// What it may be as found; integers are widened or narrowed to `integer`, texts keep their length.
    found_as: &'static [&'static str],
    /// How many characters must fit, and the most that the figures hold; 0 for what is no text.
    text_length: i32,
    /// What a missing column is added as; `None`: it cannot be made up.
    added_as: Option<&'static str>,
}

const fn wanted(name: &'static str, found_as: &'static [&'static str]) -> Wanted {
    Wanted { name, found_as, text_length: 0, added_as: None }
}

const fn wanted_text(name: &'static str, text_length: i32) -> Wanted {
    Wanted { name, found_as: &["character varying", "text"], text_length, added_as: None }
}

const INTEGERS: &[&str] = &["integer", "smallint", "bigint"];

const WANTED: [Wanted; 10] = [
    wanted("time", &["timestamp with time zone"]),
    wanted_text("request_id", 128),
    wanted("organization_id", &["uuid"]),
    wanted("api_key_id", &["uuid"]),
    wanted_text("endpoint", 255),
    wanted_text("method", 10),
    wanted("status_code", INTEGERS),
    wanted("response_time_ms", INTEGERS),
    Wanted { added_as: Some("boolean NOT NULL DEFAULT true"), ..wanted("billable", &["boolean"]) },
    Wanted { added_as: Some("integer NOT NULL DEFAULT 1"), ..wanted("weight", INTEGERS) },
];

/// Indexes on these, whichever way they are sorted and whatever they leave out, ours replace.
const REPLACED: [&[&str]; 7] = [
    &["time"],
    &["organization_id"],
    &["organization_id", "time"],
    &["api_key_id"],
    &["api_key_id", "time"],
    &["endpoint"],
    &["endpoint", "time"],
];

/// Ours, where they are there already: not built again.
const OURS: [(&str, &str); 2] = [
    ("usage_events_time_idx", r#"btree ("time" DESC)"#),
    ("usage_events_api_key_idx", r#"btree (api_key_id, "time" DESC)"#),
];

const COLUMNS: &str = "\
SELECT attname::text, atttypid::regtype::text,
       CASE WHEN atttypid = 'varchar'::regtype AND atttypmod > 4 THEN atttypmod - 4 ELSE 0 END,
       coalesce((SELECT collname::text FROM pg_collation WHERE oid = attcollation), ''),
       attnotnull, attidentity <> '', coalesce(pg_get_expr(adbin, adrelid), '')
  FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE attrelid = 'usage_events'::regclass AND attnum > 0 AND NOT attisdropped
 ORDER BY attnum";

/// One column as found.
struct Column {
    name: String,
    type_name: String,
    /// Of `varchar(n)`; 0: no limit.
    length: i32,
    collation: String,
    is_required: bool,
    is_identity: bool,
    default: String,
}

/// What `usage_events` has, and the steps that it takes.
pub(super) fn read(client: &mut impl GenericClient, plan: &mut Plan) -> Result<(), postgres::Error> {
    let columns = client
        .query(COLUMNS, &[])?
        .iter()
        .map(|row| {
            Ok(Column {
                name: row.try_get(0)?,
                type_name: row.try_get(1)?,
                length: row.try_get(2)?,
                collation: row.try_get(3)?,
                is_required: row.try_get(4)?,
                is_identity: row.try_get(5)?,
                default: row.try_get(6)?,
            })
        })
        .collect::<Result<Vec<_>, postgres::Error>>()?;
    drop_keys(client, plan)?;
    let mut missing_or_wrong = false;
    for wanted in &WANTED {
        match columns.iter().find(|column| column.name == wanted.name) {
            Some(column) if wanted.found_as.contains(&column.type_name.as_str()) => {
                fit_column(plan, wanted, column);
            }
            Some(column) => {
                missing_or_wrong = true;
                plan.obstacle(format!(
                    "the column {} is {} and must be {}",
                    column.name, column.type_name, wanted.found_as[0]
                ));
            }
            None => match wanted.added_as {
                Some(definition) => plan.step(
                    format!("add the column {}, {definition}", wanted.name),
                    format!("ALTER TABLE usage_events ADD COLUMN {} {definition}", wanted.name),
                ),
                None => {
                    missing_or_wrong = true;
                    plan.obstacle(format!("there is no column {}", wanted.name));
                }
            },
        }
    }
    fit_other_columns(plan, &columns);
    if !missing_or_wrong {
        read_rows(client, plan, &columns)?;
    }
    Ok(())
}

/// Text sorts by bytes, integers are integers, and nothing is longer than it was.
fn fit_column(plan: &mut Plan, wanted: &Wanted, column: &Column) {
    let name = wanted.name;
    if wanted.text_length > 0 {
        let is_short = column.length > 0 && column.length < wanted.text_length;
        if is_short || column.collation != "C" {
            let length = column.length.max(wanted.text_length);
            let type_name =
                if column.length == 0 { column.type_name.clone() } else { format!("varchar({length})") };
            plan.step(
                format!("make {name} {type_name} COLLATE \"C\""),
                format!("ALTER TABLE usage_events ALTER COLUMN {name} TYPE {type_name} COLLATE \"C\""),
            );
        }
    } else if wanted.found_as == INTEGERS && column.type_name != "integer" {
        plan.step(
            format!("make {name} an integer"),
            format!("ALTER TABLE usage_events ALTER COLUMN {name} TYPE integer"),
        );
    }
    if !column.is_required {
        plan.step(
            format!("require {name}"),
            format!("ALTER TABLE usage_events ALTER COLUMN {name} SET NOT NULL"),
        );
    }
}

/// `created_at` fills itself; what else there is must do without a value, since the writer knows none.
fn fit_other_columns(plan: &mut Plan, columns: &[Column]) {
    match columns.iter().find(|column| column.name == "created_at") {
        None => plan.step(
            "add the column created_at: now, for all rows that there are".to_owned(),
            "ALTER TABLE usage_events ADD COLUMN created_at timestamptz NOT NULL DEFAULT now()".to_owned(),
        ),
        Some(column) if column.default != "now()" => plan.step(
            "let created_at be the present by default".to_owned(),
            "ALTER TABLE usage_events ALTER COLUMN created_at SET DEFAULT now()".to_owned(),
        ),
        Some(_) => {}
    }
    let is_known = |name: &str| name == "created_at" || WANTED.iter().any(|wanted| wanted.name == name);
    for column in columns.iter().filter(|column| !is_known(&column.name)) {
        let is_counted = column.default.starts_with("nextval(");
        if !column.is_required && !is_counted {
            continue;
        }
        let name = quoted(&column.name);
        let drop_identity =
            if column.is_identity { format!("ALTER COLUMN {name} DROP IDENTITY, ") } else { String::new() };
        let drop_default =
            if is_counted { format!("ALTER COLUMN {name} DROP DEFAULT, ") } else { String::new() };
        plan.step(
            format!("let {name} be absent: this program does not fill it"),
            format!(
                "ALTER TABLE usage_events {drop_identity}{drop_default}ALTER COLUMN {name} DROP NOT NULL"
            ),
        );
    }
}

/// A second unique key would stop the writer: it says "another request" where the event is a new one.
/// A foreign key would too, for events of an organization that is not there.
fn drop_keys(client: &mut impl GenericClient, plan: &mut Plan) -> Result<(), postgres::Error> {
    let constraints = client.query(
        "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint
          WHERE conrelid = 'usage_events'::regclass AND contype IN ('p', 'u', 'x', 'f') ORDER BY contype DESC, 1",
        &[],
    )?;
    for row in &constraints {
        let (name, definition): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        plan.step(
            format!("drop the constraint {name}, {definition}"),
            format!("ALTER TABLE usage_events DROP CONSTRAINT {}", quoted(&name)),
        );
    }
    let indexes = client.query(
        "SELECT relname::text, indisunique, substring(pg_get_indexdef(indexrelid) FROM ' USING (.*)$'),
                ARRAY(SELECT coalesce(attname::text, '(expression)') FROM unnest(indkey::int[]) WITH ORDINALITY AS k (n, i)
                        LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = n AND n > 0 ORDER BY i)
           FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
          WHERE indrelid = 'usage_events'::regclass
            AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND conrelid = indrelid) ORDER BY 1",
        &[],
    )?;
    for row in &indexes {
        let (name, is_unique): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
        let (definition, columns): (String, Vec<String>) = (row.try_get(2)?, row.try_get(3)?);
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        if OURS.contains(&(name.as_str(), definition.as_str())) {
            continue;
        }
        if is_unique || REPLACED.contains(&columns.as_slice()) {
            plan.step(
                format!("drop the index {name}, {definition}"),
                format!("DROP INDEX {}", quoted(&name)),
            );
        } else {
            plan.note(format!(
                "the index {name}, {definition}, stays: it costs every write, and nothing here reads it"
            ));
            if name.starts_with("usage_events_") {
                plan.step(
                    format!("call it adopted_{name}"),
                    format!("ALTER INDEX {} RENAME TO {}", quoted(&name), quoted(&format!("adopted_{name}"))),
                );
            }
        }
    }
    Ok(())
}

/// What no catalogue says: values that are absent or too long, and requests that are there twice.
fn read_rows(
    client: &mut impl GenericClient,
    plan: &mut Plan,
    columns: &[Column],
) -> Result<(), postgres::Error> {
    let mut questions = Vec::new();
    for wanted in &WANTED {
        let Some(column) = columns.iter().find(|column| column.name == wanted.name) else { continue };
        if !column.is_required {
            questions.push((format!("{} IS NULL", wanted.name), "have none".to_owned()));
        }
        if wanted.text_length > 0 && (column.length == 0 || column.length > wanted.text_length) {
            let (name, length) = (wanted.name, wanted.text_length);
            questions
                .push((format!("length({name}) > {length}"), format!("are longer than {length} characters")));
        }
    }
    if !questions.is_empty() {
        let counts: Vec<_> =
            questions.iter().map(|(predicate, _)| format!("count(*) FILTER (WHERE {predicate})")).collect();
        let row = client.query_one(&format!("SELECT {} FROM usage_events", counts.join(", ")), &[])?;
        for (idx, (predicate, what)) in questions.iter().enumerate() {
            let count: i64 = row.try_get(idx)?;
            if count > 0 {
                let subject = predicate.split([' ', ')']).next().unwrap_or_default().replace("length(", "");
                plan.obstacle(format!(
                    "{count} rows {what} in the column {subject}: SELECT * FROM usage_events WHERE {predicate}"
                ));
            }
        }
    }
    let keys = texts(
        client,
        "SELECT indexrelid::regclass::text FROM pg_index
          WHERE indrelid = 'usage_events'::regclass AND indisunique AND indisvalid AND indpred IS NULL AND indexprs IS NULL
            AND ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY (indkey::int[]))
                <@ '{organization_id,time,request_id}'",
    )?;
    if keys.is_empty() {
        let doubled = "SELECT organization_id, time, request_id, count(*) FROM usage_events \
                       GROUP BY 1, 2, 3 HAVING count(*) > 1";
        let row = client.query_one(
            &format!("SELECT coalesce(sum(count - 1), 0)::bigint FROM ({doubled}) AS doubled"),
            &[],
        )?;
        let count: i64 = row.try_get(0)?;
        if count > 0 {
            plan.obstacle(format!(
                "{count} rows have the organization_id, time and request_id of another row, and each would be billed \
                 again: {doubled}"
            ));
        }
    }
    Ok(())
}

/// The steps of a plan, apart from how they came about.
impl Plan {
    pub(super) fn step(&mut self, what: String, sql: String) {
        self.steps.push(Step { what, sql });
    }

    pub(super) fn note(&mut self, what: String) {
        self.notes.push(what);
    }

    pub(super) fn obstacle(&mut self, what: String) {
        self.obstacles.push(what);
    }
}
