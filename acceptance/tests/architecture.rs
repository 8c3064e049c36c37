//! What is absent: the invariants of ARCHITECTURE.md, read off the crate graph and the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Crates that are deployed; the rules about sources hold for them.
const SERVICES: [&str; 8] = ["shared", "messaging", "writer", "reader", "console", "jobs", "importer", "notifier"];
const KAFKA: [&str; 2] = ["rdkafka", "rdkafka-sys"];
const SQLX: [&str; 3] = ["sqlx", "sqlx-core", "sqlx-postgres"];
/// The writer's stages; one file may know them all.
const STAGES: [&str; 4] = ["decode", "fold", "plan", "store"];
/// Calls that send or prepare a statement, of sqlx and of tokio-postgres.
const STATEMENTS: [&str; 24] = [
    "sqlx::query",
    "query_scalar(",
    "query_as(",
    "query_with(",
    "query_file",
    "raw_sql(",
    "batch_execute(",
    "simple_query(",
    ".prepare(",
    ".prepare_typed(",
    ".prepare_cached(",
    ".query(",
    ".query_raw(",
    ".query_one(",
    ".query_opt(",
    ".query_typed",
    ".execute(",
    ".execute_raw(",
    ".execute_typed(",
    ".execute_many(",
    ".fetch_one(",
    ".fetch_all(",
    ".fetch_optional(",
    ".copy_",
];
/// The query of a URI is none.
const NO_STATEMENT: &str = ".query()";
/// Files whose clients read no record: one makes consumers that look topics up, the other an admin's client.
const READ_NOTHING: [&str; 2] = ["messaging/src/topics.rs", "console/src/redrive/plan.rs"];

#[test]
fn the_reader_links_no_kafka_client_and_nothing_that_writes_the_view() -> Result<()> {
    let graph = Graph::read()?;
    graph.lacks("reader", &[&KAFKA[..], &SQLX, &["writer", "messaging"]].concat())
}

#[test]
fn shared_knows_neither_kafka_nor_tables() -> Result<()> {
    Graph::read()?.lacks("shared", &[&KAFKA[..], &SQLX, &["messaging", "tokio-postgres", "deadpool-postgres"]].concat())
}

#[test]
fn services_do_not_know_each_other_and_tests_know_no_service() -> Result<()> {
    let graph = Graph::read()?;
    graph.lacks("messaging", &["writer", "reader", "devstack", "acceptance"])?;
    graph.lacks("writer", &["reader", "devstack", "acceptance"])?;
    graph.lacks("console", &[&SQLX[..], &["writer", "reader", "tokio-postgres", "devstack", "acceptance"]].concat())?;
    for (name, others) in
        [("jobs", ["importer", "notifier"]), ("importer", ["jobs", "notifier"]), ("notifier", ["jobs", "importer"])]
    {
        graph.lacks(name, &[&others[..], &["writer", "reader", "console", "devstack", "acceptance"]].concat())?;
    }
    graph.lacks("notifier", &SQLX)?;
    graph.lacks("devstack", &["shared", "messaging", "writer", "reader"])?;
    graph.lacks("loadtest", &["shared", "messaging", "writer", "reader", "acceptance"])?;
    graph.lacks("acceptance", &["shared", "messaging", "writer", "reader"])
}

#[test]
fn only_config_reads_the_environment() -> Result<()> {
    nothing(rule_environment(&sources(&SERVICES)?))?;
    // clippy forbids the calls everywhere; this is the list of those who may.
    let excused = |source: &&Source| source.code.contains("clippy::disallowed_methods");
    let all = sources(&[&SERVICES[..], &["devstack", "acceptance", "loadtest"]].concat())?;
    let files: Vec<&str> = all.iter().filter(excused).map(|source| source.path.as_str()).collect();
    ensure!(
        files == ["acceptance/src/torture/stream.rs", "devstack/src/options.rs", "reader/src/workers.rs"],
        "these excuse themselves from clippy.toml: {files:?}"
    );
    Ok(())
}

#[test]
fn only_observe_names_a_metric() -> Result<()> {
    nothing(rule_metrics(&sources(&SERVICES)?))
}

#[test]
fn sql_stands_in_the_files_named_for_it() -> Result<()> {
    nothing(rule_sql(&sources(&SERVICES)?))
}

/// Who also makes one that reads everything (the ends of a log, open transactions) says so beside it.
#[test]
fn whoever_makes_a_consumer_says_that_it_reads_what_is_committed() -> Result<()> {
    let sources = sources(&SERVICES)?;
    let makers = sources.iter().filter(|source| source.makes_a_consumer()).count();
    ensure!(makers > READ_NOTHING.len(), "nobody makes a consumer; the sources were misread");
    nothing(rule_isolation(&sources))
}

#[test]
fn only_the_pipeline_knows_all_stages() -> Result<()> {
    let all = sources(&["writer"])?;
    let knows_all = |source: &&Source| source.modules_used().is_superset(&STAGES.into());
    let files: Vec<&str> = all.iter().filter(knows_all).map(|source| source.path.as_str()).collect();
    ensure!(files == ["writer/src/pipeline.rs"], "these know all stages: {files:?}");
    Ok(())
}

#[test]
fn the_rules_find_offenders() {
    let file = |path: &str, text: &str| vec![Source::new(path.to_owned(), text)];
    for (rule, path, offence) in [
        (rule_environment as fn(&[Source]) -> Vec<String>, "writer/src/lane.rs", "let x = std::env::var(\"X\");"),
        (rule_environment, "reader/src/app.rs", "#[arg(long, env = \"READER_X\")]"),
        (rule_metrics, "reader/src/gate.rs", "counter!(X).increment(1)"),
        (rule_metrics, "writer/src/lane.rs", "let name = \"writer_lag_records\";"),
        (rule_sql, "writer/src/lane.rs", "sqlx::query(\"x\")"),
        (rule_sql, "reader/src/app.rs", "client.query_one(&statement)"),
        (rule_sql, "reader/src/app.rs", "client.query(&statement, &[])"),
        (rule_sql, "reader/src/app.rs", "client.query(\n    &statement,\n)"),
        (rule_sql, "reader/src/app.rs", "client.query_opt(&statement, &[])"),
        (rule_sql, "reader/src/app.rs", "client.query_typed(statement, &[])"),
        (rule_sql, "reader/src/app.rs", "client.prepare_typed(statement, &[])"),
        (rule_sql, "reader/src/app.rs", "client.execute(\"delete from x\", &[])"),
        (rule_sql, "importer/src/work.rs", "connection.execute(statement)"),
        (rule_sql, "jobs/src/app.rs", "statement.fetch_all(&pool)"),
        (rule_sql, "writer/src/lane.rs", "connection.copy_in_raw(statement)"),
        (rule_isolation, "jobs/src/log.rs", "let consumer: BaseConsumer = config.create()?;"),
        (rule_isolation, "jobs/src/log.rs", "fn of() -> StreamConsumer { config.create_with_context(context) }"),
    ] {
        assert_eq!(rule(&file(path, offence)).len(), 1, "{offence}");
        assert_eq!(rule(&file(path, &format!("// {offence}\n"))), Vec::<String>::new(), "a comment is no code");
        assert_eq!(rule(&file(path, &format!("#[cfg(test)]\nmod tests {{ {offence} }}"))), Vec::<String>::new());
    }
    assert_eq!(rule_sql(&file("reader/src/app.rs", "let asked = uri.query().is_some();")), Vec::<String>::new());
    let committed = "BaseConsumer; config.set(\"isolation.level\", \"read_committed\").create()";
    assert_eq!(rule_isolation(&file("jobs/src/log.rs", committed)), Vec::<String>::new());
    let pipeline =
        Source::new(String::new(), "use crate::{decode::decode, fold::{Sites, fold},\n plan};\ncrate::store::X");
    assert!(pipeline.modules_used().is_superset(&STAGES.into()));
    let lane = Source::new(String::new(), "use crate::{decode::Limits, store::Store};\nlet fold = plan;");
    assert!(!lane.modules_used().contains("fold") && lane.modules_used().contains("store"));
}

fn rule_environment(sources: &[Source]) -> Vec<String> {
    let is_config = |path: &str| path.ends_with("/config.rs") || path.contains("/config/");
    offences(sources, &["env::var", "env::vars", "env = \""], is_config)
}

fn rule_metrics(sources: &[Source]) -> Vec<String> {
    let names = [
        "counter!(",
        "gauge!(",
        "histogram!(",
        "\"writer_",
        "\"reader_",
        "\"consumer_",
        "\"console_",
        "\"jobs_",
        "\"importer_",
        "\"notifier_",
    ];
    offences(sources, &names, |path| path.ends_with("/observe.rs"))
}

fn rule_sql(sources: &[Source]) -> Vec<String> {
    let is_named = |path: &str| {
        let named = [
            "writer/src/migrate.rs",
            "writer/src/verify/source.rs",
            "jobs/src/queries.rs",
            "importer/src/store.rs",
            "importer/src/migrate.rs",
        ];
        named.contains(&path) || path.starts_with("writer/src/store") || path.starts_with("reader/src/queries")
    };
    let without = |source: &Source| Source { path: source.path.clone(), code: source.code.replace(NO_STATEMENT, "") };
    offences(&sources.iter().map(without).collect::<Vec<_>>(), &STATEMENTS, is_named)
}

fn rule_isolation(sources: &[Source]) -> Vec<String> {
    let offends = |source: &&Source| {
        let says = source.code.contains("\"isolation.level\", \"read_committed\"");
        source.makes_a_consumer() && !says && !READ_NOTHING.contains(&source.path.as_str())
    };
    let found = |source: &Source| format!("{} makes a consumer and names no isolation.level", source.path);
    sources.iter().filter(offends).map(found).collect()
}

fn offences(sources: &[Source], forbidden: &[&str], may: impl Fn(&str) -> bool) -> Vec<String> {
    let found = |source: &Source| {
        let says = forbidden.iter().find(|text| source.code.contains(**text))?;
        Some(format!("{} holds `{says}`", source.path))
    };
    sources.iter().filter(|source| !may(&source.path)).filter_map(found).collect()
}

fn nothing(offences: Vec<String>) -> Result<()> {
    ensure!(offences.is_empty(), "{offences:#?}");
    Ok(())
}

/// A file of the workspace without its comments and its unit tests.
struct Source {
    /// From the workspace's root.
    path: String,
    code: String,
}

impl Source {
    fn new(path: String, text: &str) -> Self {
        // House style: unit tests stand last.
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let code = shipped.lines().filter(is_code).flat_map(|line| [line, "\n"]).collect();
        Self { path, code }
    }

    fn makes_a_consumer(&self) -> bool {
        let makes = self.code.contains(".create()") || self.code.contains(".create_with_context(");
        makes && (self.code.contains("BaseConsumer") || self.code.contains("StreamConsumer"))
    }

    /// The crate's own modules that it names.
    fn modules_used(&self) -> BTreeSet<&str> {
        let paths = self.code.split("crate::").skip(1).flat_map(|rest| {
            let braced = rest.starts_with('{');
            let end = if braced { rest.find(';') } else { rest.find(|c: char| !c.is_alphanumeric() && c != '_') };
            rest[..end.unwrap_or(rest.len())].split(|c: char| !c.is_alphanumeric() && c != '_')
        });
        paths.collect()
    }
}

fn sources(crates: &[&str]) -> Result<Vec<Source>> {
    let root = root();
    let mut sources = Vec::new();
    for name in crates {
        collect(&root, &root.join(name).join("src"), &mut sources)?;
    }
    ensure!(!sources.is_empty(), "no sources below {}", root.display());
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.strip_prefix(root)?.display().to_string();
        if path.is_dir() {
            collect(root, &path, sources)?;
        } else if name.ends_with(".rs") && !name.ends_with("_tests.rs") && !name.ends_with("/tests.rs") {
            sources.push(Source::new(name, &std::fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// Who depends on whom in what is shipped: neither for tests nor for build scripts.
struct Graph {
    metadata: Metadata,
}

impl Graph {
    fn read() -> Result<Self> {
        let mut command = MetadataCommand::new();
        command.manifest_path(root().join("Cargo.toml")).other_options(vec!["--locked".to_owned()]);
        Ok(Self { metadata: command.exec()? })
    }

    /// Errors when the crate links one of these, however indirectly; names the way there.
    fn lacks(&self, name: &str, forbidden: &[&str]) -> Result<()> {
        let from = self.metadata.workspace_packages().into_iter().find(|package| package.name.as_str() == name);
        let from = &from.with_context(|| format!("the workspace has no crate {name}"))?.id;
        let ways = self.ways(from)?;
        ensure!(ways.len() > 5, "{name} has hardly any dependency; the graph was misread");
        for (id, way) in &ways {
            let linked = self.metadata[id].name.as_str();
            ensure!(!forbidden.contains(&linked), "{name} links {linked}: {way}");
        }
        Ok(())
    }

    fn ways(&self, from: &PackageId) -> Result<BTreeMap<PackageId, String>> {
        let resolve = self.metadata.resolve.as_ref().context("cargo resolves the graph")?;
        let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
        let (mut ways, mut open) = (BTreeMap::new(), vec![(from.clone(), self.metadata[from].name.to_string())]);
        while let Some((id, way)) = open.pop() {
            let shipped = |dependency: &&cargo_metadata::NodeDep| {
                dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal)
            };
            for dependency in nodes[&id].deps.iter().filter(shipped) {
                if !ways.contains_key(&dependency.pkg) {
                    let way = format!("{way} → {}", self.metadata[&dependency.pkg].name);
                    ways.insert(dependency.pkg.clone(), way.clone());
                    open.push((dependency.pkg.clone(), way));
                }
            }
        }
        Ok(ways)
    }
}
