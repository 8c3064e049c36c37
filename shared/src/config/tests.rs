use super::*;
use std::time::Duration;

#[derive(Debug, Parser)]
#[command(name = "sample")]
struct Sample {
    #[command(flatten)]
    common: Common,
    /// Topic
    #[arg(long, env = "SAMPLE_TEST_TOPIC", default_value = "the-default", global = true)]
    topic: String,
    /// Database
    #[arg(long, env = "SAMPLE_TEST_URL", hide_env_values = true, global = true)]
    database_url: Option<Secret>,
    /// Listen
    #[arg(long, default_value = "0.0.0.0:1", global = true)]
    admin_listen: std::net::SocketAddr,
    /// Retention
    #[arg(long, default_value = "8d", value_parser = duration_between(Duration::from_secs(1), Duration::from_secs(864_000)))]
    retention: Duration,
    /// Dry
    #[arg(long)]
    dry: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Verb {
    Migrate,
}

fn load_args(args: &[&str]) -> Result<Loaded<Sample>, clap::Error> {
    load_from(std::iter::once("sample").chain(args.iter().copied()).map(OsString::from).collect(), Ok)
}

fn parsed(args: &[&str]) -> Sample {
    match load_args(args) {
        Ok(Loaded::Config(sample)) => sample,
        Ok(Loaded::Printed(text)) => panic!("printed {text}"),
        Err(error) => panic!("{error}"),
    }
}

fn printed(args: &[&str]) -> String {
    match load_args(args) {
        Ok(Loaded::Printed(text)) => text,
        _ => panic!("nothing printed"),
    }
}

fn refused(args: &[&str]) -> String {
    match load_args(args) {
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            error.to_string()
        }
        Ok(_) => panic!("{args:?} is taken"),
    }
}

/// Files of one test; gone with it.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn add(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn a_flag_beats_the_file_and_the_file_beats_the_default() {
    let files = Files::new();
    let path =
        files.add("precedence", "topic = 'of-the-file'\nretention = '2s'\ndry = true\nadmin_listen = '127.0.0.1:9'\n");
    let sample = parsed(&["--config", &path]);
    assert_eq!((sample.topic.as_str(), sample.retention), ("of-the-file", Duration::from_secs(2)));
    assert!(sample.dry && sample.admin_listen.port() == 9);
    assert_eq!(parsed(&[&format!("--config={path}"), "--topic", "flag"]).topic, "flag");
    let sample = parsed(&["migrate", "--topic", "after-the-verb", "--config", &path]);
    assert!(matches!(sample.verb, Some(Verb::Migrate)) && sample.admin_listen.port() == 9);
    assert_eq!(sample.topic, "after-the-verb");
    assert_eq!(parsed(&[]).topic, "the-default");
    assert_eq!(parsed(&["migrate"]).common.log_format, LogFormat::Text);
}

#[test]
fn the_environment_stands_between_file_and_flag() {
    let files = Files::new();
    // A variable that is always there stands in for a service's own: tests must not write the environment.
    #[derive(Parser)]
    struct Home {
        #[arg(long, env = "PATH")]
        path: String,
        #[arg(long)]
        config: Option<PathBuf>,
    }
    let toml = files.add("environment", "path = 'of-the-file'\n");
    let load = |args: &[&str]| match load_from::<Home, _>(args.iter().map(OsString::from).collect(), Ok) {
        Ok(Loaded::Config(home)) => (home.path, home.config.is_some()),
        _ => panic!("refused"),
    };
    let (path, has_file) = load(&["x", "--config", &toml]);
    assert!(has_file && path != "of-the-file" && !path.is_empty());
    assert_eq!(load(&["x", "--config", &toml, "--path", "flag"]).0, "flag");
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let files = Files::new();
    let unknown = files.add("unknown", "no_such_key = 1\n");
    let range = files.add("range", "retention = '0s'\n");
    let table = files.add("table", "[topic]\nx = 1\n");
    for (args, culprit) in [
        (&["--config", "/nowhere.toml"][..], "/nowhere.toml"),
        (&["--config", &unknown], "no_such_key"),
        (&["--config", &range], "retention"),
        (&["--config", &table], "topic"),
        (&["--no-such-flag"], "--no-such-flag"),
        (&["--retention", "0s"], "--retention"),
        (&["--retention", "soon"], "--retention"),
        (&["--admin-listen", "127.0.0.1:99999"], "--admin-listen"),
        (&["--rust-log", "x=y=z"], "--rust-log"),
        (&["--log-format", "xml"], "--log-format"),
    ] {
        let message = refused(args);
        assert!(message.contains(culprit), "{args:?}: {message}");
    }
    let error = load_from::<Sample, ()>(vec!["sample".into()], |_| Err(Invalid::new("SAMPLE_X", "is odd"))).err();
    assert!(error.is_some_and(|e| e.exit_code() == 2 && e.to_string().contains("SAMPLE_X: is odd")));
}

#[test]
fn secrets_show_nowhere() {
    let files = Files::new();
    let path = files.add("secret", "database_url = 'postgres://me:hunter2@db:5432/view?x=hunter2'\n");
    let text = printed(&["--config", &path, "--print-config"]);
    assert!(text.contains("database_url = \"postgres://me:***@db:5432/view\"\n"), "{text}");
    assert!(text.contains("admin_listen = \"0.0.0.0:1\"\n") && text.contains("topic = \"the-default\"\n"), "{text}");
    let help = match load_args(&["--config", &path, "--help"]) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("no help"),
    };
    assert!(!help.contains("hunter2") && help.contains("SAMPLE_TEST_URL") && help.contains("RUST_LOG"), "{help}");
    let broken = files.add("broken", "topic = 1\ndatabase_url = 'hunter2\n");
    let message = refused(&["--config", &broken]);
    assert!(!message.contains("hunter2") && message.contains("line 2"), "{message}");
    assert_eq!(format!("{:?} {}", Secret::from("x".to_owned()), Secret::from("x".to_owned())), "*** ***");
}

#[test]
fn urls_lose_their_passwords() {
    for (url, shown) in [
        ("postgres://me:pw@h:1/d", "postgres://me:***@h:1/d"),
        ("postgres://me@h/d", "postgres://me@h/d"),
        ("postgres://h/d?password=pw", "postgres://h/d"),
        ("postgres://me:p@w@h/d,postgres://h2/d", "postgres://me:***@h/d,postgres://h2/d"),
        ("postgres://me:p,w@h/d", "***"),
        ("host=h password=pw", "***"),
        ("postgres://u:pw@[broken", "postgres://u:***@[broken"),
        ("postgres://u:pw", "***"),
        ("", "***"),
    ] {
        assert_eq!(mask_urls(url), shown, "{url}");
    }
}

#[test]
fn a_secret_comes_from_its_value_or_its_file() {
    let files = Files::new();
    let path = PathBuf::from(files.add("plain", "pw\n"));
    let value = || Some(Secret::from("v".to_owned()));
    assert_eq!(secret_from("X", value(), None), Ok(value()));
    assert_eq!(secret_from("X", None, Some(path.clone())), Ok(Some(Secret::from("pw".to_owned()))));
    assert_eq!(secret_from("X", None, None), Ok(None));
    assert!(secret_from("X", value(), Some(path)).is_err_and(|e| e.to_string().contains("X_FILE")));
    assert!(secret_from("X", None, Some("/nowhere".into())).is_err_and(|e| e.to_string().contains("/nowhere")));
}

#[test]
fn bytes_have_binary_units() {
    for (text, want) in [("0", Some(0)), ("16MiB", Some(16 << 20)), ("1 KiB", Some(1024)), ("7B", Some(7))] {
        assert_eq!(bytes(text).ok(), want, "{text}");
    }
    for bad in ["", "MiB", "1MB", "-1", "99999999999999999999", "20000000000GiB"] {
        assert!(bytes(bad).is_err(), "{bad}");
    }
    assert!(bytes_between(1, 2)("3").is_err());
}
