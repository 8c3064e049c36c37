//! Child processes that die with their parent and are never waited for without a bound.
//!
//! Every child is its own process group, so that a terminal's Ctrl-C reaches devstack alone and parts stop in order, and
//! asks the kernel for SIGKILL when its parent ends (`prctl(2)`, `PR_SET_PDEATHSIG`). That signal is tied to the *thread*
//! that forked, hence one thread per process forks all children and never ends.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;
use std::{fs, io, thread};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getppid};

use crate::account::Account;
use crate::failure::Failure;
use crate::wait::eventually;

/// How long a child may take to vanish after SIGKILL before devstack gives up on it.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// All that is needed to start a program, as often as wanted.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// The part it belongs to, for messages.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Added to the environment, or all of it when `inherit_env` is false (plus `PATH`).
    pub(crate) env: Vec<(String, OsString)>,
    pub(crate) inherit_env: bool,
    /// Who it runs as; `None` is the user of devstack.
    pub(crate) account: Option<Account>,
    pub(crate) dir: PathBuf,
    /// Where its standard output and error are appended.
    pub(crate) log: PathBuf,
}

impl Launch {
    /// A program that runs in `dir` as the user of devstack, with nothing but `PATH` in its environment.
    pub(crate) fn new(name: &str, program: impl Into<PathBuf>, dir: &Path, log: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            inherit_env: false,
            account: None,
            dir: dir.to_owned(),
            log: log.to_owned(),
        }
    }

    /// Appends arguments.
    pub(crate) fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the child's environment.
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Passes the environment of devstack on.
    pub(crate) fn inherit_env(mut self) -> Self {
        self.inherit_env = true;
        self
    }

    /// Runs it as another user.
    pub(crate) fn account(mut self, account: Option<Account>) -> Self {
        self.account = account;
        self
    }

    /// Starts it; returns as soon as the program runs (or could not be executed).
    pub(crate) fn spawn(&self) -> Result<Process> {
        let open = || fs::OpenOptions::new().create(true).append(true).open(&self.log);
        let log = open().with_context(|| format!("{}: log {} can't be opened", self.name, self.log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.dir).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if !self.inherit_env {
            command.env_clear();
            command.envs(crate::options::search_path().map(|path| ("PATH", path)));
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        let child = spawn_on_lasting_thread(command)
            .with_context(|| format!("{}: {} can't be started", self.name, self.program.display()))?;
        Ok(Process::watch(child, self.name.clone()))
    }

    /// Runs it to its end; an exit code other than 0 and `deadline` are errors. Dropping the future kills it.
    pub(crate) async fn run(&self, what: &str, deadline: Duration) -> Result<()> {
        let process = self.spawn()?;
        let status = eventually(what, deadline, async || process.status())
            .await
            .map_err(|error| Failure::new(&self.name, format!("{what}: {error}")).log(&self.log))?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(&self.name, format!("{what} ended with {status}")).log(&self.log).into())
    }
}

/// A running child; killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    name: String,
    exit: Arc<Exit>,
}

#[derive(Debug, Default)]
struct Exit {
    /// Set under the lock in which the child is reaped: while it is `None` the pid can't belong to another process.
    status: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

impl Process {
    fn watch(mut child: Child, name: String) -> Self {
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits pid_t"));
        let exit = Arc::<Exit>::default();
        let seen = Arc::clone(&exit);
        thread::spawn(move || {
            while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(nix::Error::EINTR) {}
            let mut status = seen.status.lock().unwrap_or_else(PoisonError::into_inner);
            *status = Some(child.wait().unwrap_or_default());
            seen.changed.notify_all();
        });
        Self { pid, name, exit }
    }

    /// The process id, which is also the id of its process group.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// How it ended, or `None` while it runs.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        *self.exit.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a signal unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        let status = self.exit.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.is_none() {
            // It can only fail for a process that is gone, which is what the caller wants to reach.
            let _ = kill(self.pid, signal);
        }
    }

    /// Sends `signal`, waits `grace` for the end and then kills it. A process that was stopped (SIGSTOP) is continued.
    pub(crate) fn stop(&self, signal: Signal, grace: Duration) {
        self.signal(signal);
        self.signal(Signal::SIGCONT);
        if self.ended_within(grace).is_none() {
            self.kill();
        }
    }

    /// Sends SIGKILL and waits until it is gone.
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
        if self.ended_within(KILL_GRACE).is_none() {
            crate::progress::warn(&format!("{} (pid {}) outlives SIGKILL", self.name, self.pid));
        }
    }

    fn ended_within(&self, grace: Duration) -> Option<ExitStatus> {
        let status = self.exit.status.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.exit.changed.wait_timeout_while(status, grace, |status| status.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status().is_none() {
            self.kill();
        }
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Forks on the one thread that lives as long as this process, because the parent-death signal follows the thread.
fn spawn_on_lasting_thread(mut command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    die_with(&mut command, nix::unistd::getpid());
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).expect("the spawner thread ends only with the process");
    answer.recv().expect("the spawner thread answers every order")
}

fn die_with(command: &mut Command, parent: Pid) {
    let before_exec = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the request was in place.
        if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl and getppid are plain system calls,
    // and nothing here allocates or locks. Standard library changes user and group before this runs, which matters: the
    // kernel clears the parent-death signal when credentials change.
    unsafe { command.pre_exec(before_exec) };
}
