//! Kafka and the view's Postgres, started for real: addresses, replication, restarts on the same data, and that nothing
//! survives the death of devstack.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use devstack::postgres::client;
use devstack::{Devstack, Endpoints, Options, Part, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

const DEADLINE: Duration = Duration::from_secs(30);

async fn number(url: &str, query: &str) -> Option<i64> {
    client(url).await.ok()?.query_one(query, &[]).await.ok().map(|row| row.get(0))
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie is dead; it waits for whoever inherited it.
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_come_back_on_the_same_port_and_data_and_the_replica_follows() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Devstack::start(Options::new([Part::Kafka, Part::Postgres], dir.path()).unwrap()).await.unwrap();
    let endpoints = stack.endpoints().clone();
    assert_eq!(Endpoints::read(&dir.path().join("endpoints.json")).unwrap(), endpoints);
    let (primary, replica) = (endpoints.view_primary_url.as_deref().unwrap(), &endpoints.view_replica_urls[0]);

    client(primary).await.unwrap().batch_execute("create table kept as select 1::int8 as n").await.unwrap();
    let count = "select count(*) from kept";
    let follows = async |rows| {
        let seen = async || (number(replica, count).await == Some(rows)).then_some(());
        eventually("the replica has the rows of the primary", DEADLINE, seen).await.unwrap();
    };
    follows(1).await;

    let server = stack.view_primary().unwrap();
    let before = server.pid();
    // Killed from outside, as tests of crashes do it.
    kill(Pid::from_raw(before.unwrap()), Signal::SIGKILL).unwrap();
    eventually("the death is noticed", DEADLINE, async || server.pid().is_none().then_some(())).await.unwrap();
    assert!(stack.failure().unwrap().to_string().starts_with("view-primary: it ended by itself"));
    assert_eq!(number(replica, count).await, Some(1), "a replica answers without its primary");
    server.start().await.unwrap();
    assert_ne!(server.pid(), before);
    client(primary).await.unwrap().batch_execute("insert into kept values (2)").await.unwrap();
    follows(2).await;

    let address = endpoints.kafka.as_deref().unwrap();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("log_level", "0");
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let topic = NewTopic::new("kept", 3, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    for round in ["kill", "restart"] {
        let server = stack.kafka().unwrap();
        match round {
            "kill" => server.kill(),
            _ => server.stop(),
        }
        assert!(std::net::TcpStream::connect(address).is_err(), "after {round} nobody listens");
        server.start().await.unwrap();
        let consumer: BaseConsumer = config.create().unwrap();
        let metadata = consumer.fetch_metadata(Some("kept"), DEADLINE).unwrap();
        assert_eq!(metadata.topics()[0].partitions().len(), 3, "after {round}");
    }

    assert!(stack.failure().is_none());
    let pids = stack.endpoints().pids.clone();
    drop(stack);
    assert!(!dir.path().join("endpoints.json").exists());
    assert!(!is_alive(pids.kafka.unwrap()) && !is_alive(pids.view_replica.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn children_die_with_a_devstack_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    let mut devstack = up(&state_dir);
    let endpoints: Endpoints = serde_json::Deserializer::from_reader(devstack.stdout.take().unwrap())
        .into_iter()
        .next()
        .expect("endpoints are printed when all is ready")
        .unwrap();
    let primary = endpoints.view_primary_url.as_deref().unwrap();
    let backend = number(primary, "select pg_backend_pid()::int8").await.unwrap() as i32;
    let pids = endpoints.pids;
    let servers = [pids.kafka.unwrap(), pids.view_primary.unwrap(), pids.view_replica.unwrap()];
    assert!(servers.iter().all(|pid| is_alive(*pid)));

    devstack.kill().unwrap();
    devstack.wait().unwrap();
    let gone = async || servers.iter().chain([&backend]).all(|pid| !is_alive(*pid)).then_some(());
    eventually("every child is gone", DEADLINE, gone).await.unwrap();
    let clean_up = Options::new([], &state_dir).unwrap();
    drop(Devstack::start(clean_up).await.unwrap());
}

#[test]
fn a_shared_devstack_is_started_once() {
    let first = devstack::shared(&[Part::Postgres]).unwrap();
    assert_eq!(devstack::shared(&[Part::Postgres]).unwrap(), first);
    assert!(first.kafka.is_none() && is_alive(first.pids.view_replica.unwrap()));
}

#[tokio::test]
async fn a_closed_standard_input_ends_devstack_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut devstack = Command::new(env!("CARGO_BIN_EXE_devstack"))
        .args(["up", "--until-stdin-closes", "--only", "source", "--state-dir"])
        .arg(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = devstack.stdout.take().unwrap();
    let endpoints: Endpoints = serde_json::Deserializer::from_reader(stdout).into_iter().next().unwrap().unwrap();
    let rows = "select count(*) from public.meta_site";
    assert_eq!(number(endpoints.source_database_url.as_deref().unwrap(), rows).await, Some(0));
    drop(devstack.stdin.take());
    assert!(devstack.wait().unwrap().success());
    assert!(!is_alive(endpoints.pids.source.unwrap()) && !dir.path().join("endpoints.json").exists());
}

fn up(state_dir: &Path) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_devstack"))
        .args(["up", "--only", "kafka,postgres", "--state-dir"])
        .arg(state_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the binary was built for this test")
}
