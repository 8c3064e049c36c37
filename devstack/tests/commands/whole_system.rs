//! `demo` and `smoke`, each with every part; they run beside each other.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use devstack::{Endpoints, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::devstack;

const DEADLINE: Duration = Duration::from_secs(30);
const SITES: u64 = 200;

/// Does not outlive a test that fails; its parts die with it.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn answer(url: &str) -> Value {
    let answer = reqwest::get(url).await.unwrap();
    assert_eq!(answer.status(), 200, "{url}");
    answer.json().await.unwrap()
}

/// Every process of the machine by its id: name and parent.
fn processes() -> BTreeMap<i32, (String, i32)> {
    let stat = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = text.rsplit_once(')')?;
        let mut rest = rest.split_whitespace();
        // A zombie is dead; it waits for whoever inherited it.
        let (state, parent) = (rest.next()?, rest.next()?.parse().ok()?);
        (state != "Z").then(|| (pid, (name.to_owned(), parent)))
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The names of all processes below `root`, by their ids.
fn descendants(root: i32) -> BTreeMap<i32, String> {
    let all = processes();
    let is_below = |pid: &i32| {
        let parents = std::iter::successors(Some(*pid), |pid| all.get(pid).map(|(_, parent)| *parent));
        parents.skip(1).any(|parent| parent == root)
    };
    all.iter().filter(|(pid, _)| is_below(pid)).map(|(pid, (name, _))| (*pid, name.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_prints_addresses_that_answer_and_ctrl_c_leaves_nothing_running() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = devstack();
    command.args(["demo", "--sites", &SITES.to_string(), "--rate", "100", "--state-dir"]).arg(dir.path());
    let mut demo = Demo(command.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let printed: Vec<String> = lines.take_while(|line| !line.contains("Ctrl-C ends everything")).collect();
    let urls = printed.iter().filter_map(|line| line.trim().strip_prefix("curl -s '")?.strip_suffix('\''));
    let [site_apps, app_sites, app] = urls.collect::<Vec<_>>()[..] else { panic!("three curl lines: {printed:#?}") };

    let (site, page, count) = (answer(site_apps).await, answer(app_sites).await, answer(app).await);
    assert!(site_apps.contains(site["site_id"].as_str().unwrap()) && !site["apps"].as_array().unwrap().is_empty());
    assert!(app.ends_with(page["app_id"].as_str().unwrap()) && page["sites"].as_array().unwrap().len() == 5);
    let sites_of = |count: &Value| count["site_count"].as_u64().unwrap();
    assert!((5..=SITES).contains(&sites_of(&count)) && count["app_id"] == page["app_id"], "{count}");
    let changed = async || (sites_of(&answer(app).await) != sites_of(&count)).then_some(());
    eventually("the demo's changes reach a printed address", DEADLINE, changed).await.unwrap();

    let pid = demo.0.id() as i32;
    let endpoints = Endpoints::read(&dir.path().join("endpoints.json")).unwrap();
    let children = descendants(pid);
    for part in [endpoints.pids.kafka, endpoints.pids.connect, endpoints.pids.view_primary, endpoints.pids.console] {
        assert!(children.contains_key(&part.unwrap()), "{:?}: {children:?}", endpoints.pids);
    }
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    assert!(demo.0.wait().unwrap().success());
    let left = processes();
    let is_alive = |(pid, name): &(&i32, &String)| left.get(*pid).is_some_and(|(of_now, _)| of_now == *name);
    let alive: Vec<_> = children.iter().filter(is_alive).collect();
    assert!(alive.is_empty() && !dir.path().join("endpoints.json").exists(), "{alive:?}");
}

#[test]
fn smoke_prints_how_long_a_change_took_to_each_stage() {
    let dir = tempfile::tempdir().unwrap();
    let smoke = devstack().args(["smoke", "--state-dir"]).arg(dir.path()).stderr(Stdio::inherit()).output().unwrap();
    assert_eq!(smoke.status.code(), Some(0));
    let text = String::from_utf8(smoke.stdout).unwrap();
    let stage = |line: &str| {
        let (stage, millis) = line.strip_suffix(" ms")?.rsplit_once(' ')?;
        Some((stage.trim().to_owned(), millis.parse::<f64>().ok()?))
    };
    let (stages, millis): (Vec<_>, Vec<_>) =
        text.lines().map(|line| stage(line).unwrap_or_else(|| panic!("{text}"))).unzip();
    let first_four = ["source commit -> topic", "topic -> view commit", "view commit -> replica", "replica -> HTTP"];
    assert_eq!(stages, [&first_four[..], &["source commit -> HTTP"]].concat());
    // Each is rounded to a tenth.
    assert!(millis[4] > 0.0 && (millis[..4].iter().sum::<f64>() - millis[4]).abs() < 0.3, "{text}");
}

#[test]
fn a_demo_beyond_its_bounds_is_refused_by_naming_them() {
    let dir = tempfile::tempdir().unwrap();
    let (sites, rate) = ("2..=1000000", "0.001 to 1000");
    for (argument, bounds) in [
        ("--sites=1", sites),
        ("--sites=1000001", sites),
        ("--rate=inf", rate),
        ("--rate=NaN", rate),
        ("--rate=0", rate),
        ("--rate=-1", rate),
        ("--rate=1e-300", rate),
        ("--rate=1001", rate),
        ("--rate=many", rate),
    ] {
        // Without tools, so that a demo that is not refused does not run either.
        let mut demo = devstack();
        demo.env("PATH", dir.path()).env_remove("JAVA_HOME").args(["demo", argument, "--state-dir"]).arg(dir.path());
        let refused = demo.output().unwrap();
        let error = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{argument}: {error}");
        assert!(error.contains(&argument[..6]) && error.contains(bounds), "{argument}: {error}");
    }
}
