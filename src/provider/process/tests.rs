use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::*;

fn shell(script: &str) -> Program {
    Program {
        path: PathBuf::from("/bin/sh"),
        args: ["-c", script].map(OsString::from).into(),
        environment: BTreeMap::from([("ONE".to_owned(), "1".to_owned())]),
        directory: None,
    }
}

/// What it prints, and how it ends.
async fn run(script: &str, limits: Limits, more: &[(&str, &str)]) -> (String, ExitStatus) {
    let confined = Confined::new(shell(script), &limits).await.expect("util-linux is there");
    let mut ends = Ends::listen().expect("a signal");
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let child = confined.start(more, Stdio::null()).await.expect("a shell");
    let (mut group, mut pipes) = Group::of(child).expect("pipes");
    let mut text = String::new();
    pipes.stdout.read_to_string(&mut text).await.expect("text");
    let status = group.reap(&mut ends).await.expect("an end");
    (text, status)
}

#[tokio::test]
async fn a_process_has_its_own_environment_and_group_and_no_more() {
    let (text, status) =
        run("env; ps -o pgid= -p $$ | tr -d ' '; echo $$", Limits::default(), &[("TWO", "2")]).await;
    assert!(status.success());
    let lines: Vec<&str> = text.lines().collect();
    let own = |line: &&str| !["PWD=", "_=", "OLDPWD=", "SHLVL="].iter().any(|of| line.starts_with(of));
    let mut variables: Vec<&str> =
        lines.iter().copied().filter(|line| line.contains('=')).filter(own).collect();
    variables.sort_unstable();
    assert_eq!(variables, ["ONE=1", "TWO=2"]);
    let numbers: Vec<&str> = lines.iter().copied().filter(|line| !line.contains('=')).collect();
    assert!(matches!(numbers[..], [group, own] if group == own), "{numbers:?}");
}

#[tokio::test]
async fn limits_are_set_before_the_program_begins() {
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        cpu_seconds: Some(7),
        open_files: Some(33),
        processes: Some(4000),
        is_offline: false,
    };
    let (text, _) = run("ulimit -d; ulimit -t; ulimit -n; ulimit -c", limits, &[]).await;
    assert_eq!(text.lines().collect::<Vec<_>>(), ["65536", "7", "33", "0"]);
}

/// A machine that gives no namespaces must refuse.
#[tokio::test]
async fn a_process_without_a_network_has_none_or_is_not_started() {
    let limits = Limits { is_offline: true, cpu_seconds: Some(50), ..Limits::default() };
    if let Err(failure) = Confined::new(shell("true"), &limits).await {
        assert_eq!(failure.code, Code::ProviderInitializationFailed);
        assert!(failure.message.contains("network namespace"), "{failure}");
        return;
    }
    let script = "id -u; ps -o pgid= -p $$ | tr -d ' '; echo $$; ulimit -t; tail -n +3 /proc/net/dev | tr -d ' ' | cut -d: -f1";
    let (text, status) = run(script, limits, &[]).await;
    let lines: Vec<&str> = text.lines().collect();
    let [user, group, own, seconds, ref networks @ ..] = lines[..] else { panic!("{lines:?}") };
    assert!(status.success());
    let own_user = std::fs::metadata("/proc/self").expect("procfs").uid().to_string();
    assert_eq!((user, group, seconds), (own_user.as_str(), own, "50"));
    assert!(networks.iter().all(|name| *name == "lo"), "not even this one is up: {networks:?}");
}

#[tokio::test]
async fn a_process_ends_with_whoever_starts_it() {
    let confined =
        Confined::new(shell("echo here; exec sleep 600"), &Limits::default()).await.expect("it can");
    let mut ends = Ends::listen().expect("a signal");
    let child = confined.start(Vec::new(), Stdio::null()).await.expect("a shell");
    let (mut group, mut pipes) = Group::of(child).expect("pipes");
    pipes.stdout.read_exact(&mut [0; 4]).await.expect("it has begun");
    drop(confined);
    tokio::time::timeout(Duration::from_secs(60), group.ended(&mut ends)).await.expect("it was killed");
    assert_eq!(told(group.reap(&mut ends).await.expect("an end")).1, "signal");
}

#[tokio::test]
async fn what_a_group_holds_is_the_sum_of_its_processes() {
    let child = shell("sleep 600 & sleep 600").spawn(Stdio::null()).expect("a shell");
    let (group, _pipes) = Group::of(child).expect("pipes");
    let held = group_bytes(&[group.number(), 1 << 30]);
    assert!(held[&group.number()] > 100_000, "{held:?}");
    assert_eq!(held[&(1 << 30)], 0);
}

#[test]
fn a_program_is_found_as_by_a_shell() {
    assert_eq!(find("sh", "/nowhere::/bin", None).expect("found"), PathBuf::from("/bin/sh"));
    assert!(find("/bin/sh", "", None).is_ok() && find("./sh", "", Some(Path::new("/bin"))).is_ok());
    for (name, part) in [("no-such-program", "looked for in /bin"), ("./none", "No such file")] {
        let failure = find(name, "/bin", None).expect_err(name);
        assert_eq!(failure.code, Code::ProviderInitializationFailed);
        assert!(failure.message.contains(part), "{failure}");
    }
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_any_more_leaves_no_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let note = folder.path().join("pid");
    let script = format!("sleep 600 & echo $$ $! > {}; wait", note.display());
    let confined = Confined::new(shell(&script), &Limits::default()).await.expect("it can");
    {
        let start = confined.start(Vec::new(), Stdio::null());
        tokio::pin!(start);
        assert!(futures_util::poll!(&mut start).is_pending());
        // It is born, and handed over: nobody has looked.
        while !std::fs::read_to_string(&note).is_ok_and(|text| text.ends_with('\n')) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let text = std::fs::read_to_string(&note).expect("two numbers");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut pids = text.split_whitespace();
    // The newborn is killed and reaped; what it has started is killed, and reaped by whoever inherits it.
    let newborn = pids.next().expect("its number");
    while Path::new(&format!("/proc/{newborn}")).exists() || pids.clone().any(is_running) {
        assert!(tokio::time::Instant::now() < deadline, "it is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_running(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    !matches!(state, Some("Z" | "X"))
}

#[test]
fn the_environment_of_a_program_is_not_shown() {
    let program =
        Program { environment: BTreeMap::from([("KEY".to_owned(), "s3cret".to_owned())]), ..shell("true") };
    let shown = format!("{program:?}");
    assert!(shown.contains("KEY") && !shown.contains("s3cret"), "{shown}");
}
