//! Restarts, failures, panics, and the order of stopping, on paused time.

use super::*;

fn tasks() -> Tasks {
    let opts = prometheus::Opts::new("panics", "panics");
    Tasks::new(prometheus::IntCounterVec::new(opts, &["task"]).expect("valid"))
}

/// Runs until told to stop, then writes down its name.
fn orderly(log: &Arc<Mutex<Vec<&'static str>>>, kind: Kind, drain: Duration) -> Start {
    let log = Arc::clone(log);
    Box::new(move |mut stop| {
        let log = Arc::clone(&log);
        Box::pin(async move {
            stop.wait_for(|stop| *stop).await?;
            tokio::time::sleep(drain).await;
            log.lock().push(kind.as_str());
            Ok(())
        })
    })
}

#[tokio::test(start_paused = true)]
async fn stages_stop_one_after_another_and_dispatch_drains() {
    let log = Arc::default();
    let mut tasks = tasks();
    for (kind, drain) in [
        (Kind::Http, 0),
        (Kind::Dispatch, 20),
        (Kind::Fanout, 1),
        (Kind::Tiers, 0),
    ] {
        tasks.start(kind, orderly(&log, kind, Duration::from_secs(drain)));
    }
    tokio::task::yield_now().await;
    let board = tasks.board();
    let began = Instant::now();
    tasks.stop(GRACE).await;
    assert_eq!(*log.lock(), ["tiers", "fanout", "dispatch", "http"]);
    assert!(
        began.elapsed() < Duration::from_secs(22),
        "{:?}",
        began.elapsed()
    );
    assert!(
        board
            .states()
            .values()
            .all(|state| *state == State::Stopped)
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_stop_holds_up_nobody_for_longer_than_the_grace() {
    let log = Arc::default();
    let mut tasks = tasks();
    tasks.start(Kind::Fanout, Box::new(|_| Box::pin(std::future::pending())));
    tasks.start(
        Kind::Dispatch,
        Box::new(|_| Box::pin(std::future::pending())),
    );
    tasks.start(Kind::Http, orderly(&log, Kind::Http, Duration::ZERO));
    let began = Instant::now();
    tasks.stop(GRACE).await;
    assert!(began.elapsed() <= GRACE, "{:?}", began.elapsed());
    assert_eq!(*log.lock(), ["http"]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_role_is_started_again_ever_later_and_a_panic_is_counted() {
    let starts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let mut tasks = tasks();
    let panics = tasks.panics.clone();
    let seen = Arc::clone(&starts);
    tasks.start(
        Kind::Fanout,
        Box::new(move |mut stop| {
            seen.lock().push(Instant::now());
            let nth = seen.lock().len();
            Box::pin(async move {
                match nth {
                    1 => Err("no".into()),
                    2 => panic!("oh"),
                    _ => {
                        stop.wait_for(|stop| *stop).await?;
                        Ok(())
                    }
                }
            })
        }),
    );
    while starts.lock().len() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let gaps: Vec<_> = starts.lock().windows(2).map(|w| w[1] - w[0]).collect();
    assert!(
        gaps[0] >= BACKOFF_FIRST && gaps[1] >= BACKOFF_FIRST * 2,
        "{gaps:?}"
    );
    assert_eq!(panics.with_label_values(&["fanout"]).get(), 1);
    assert_eq!(tasks.board().states()[&Kind::Fanout], State::Running);
    tasks.stop(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn what_nothing_works_without_stops_the_process() {
    let mut tasks = tasks();
    tasks.start_once(Kind::Http, |_| Box::pin(async { Err("port gone".into()) }));
    let failure = tasks.failed().await;
    assert_eq!(failure.to_string(), "http failed: port gone");
}

#[tokio::test(start_paused = true)]
async fn a_logged_task_takes_nobody_with_it() {
    let mut tasks = tasks();
    tasks.start_once(Kind::Samples, |_| Box::pin(async { Err("no".into()) }));
    let outcome = tokio::time::timeout(Duration::from_secs(60), tasks.failed()).await;
    assert!(outcome.is_err(), "nothing fails");
    assert_eq!(
        tasks.board().states()[&Kind::Samples],
        State::Failed("no".into())
    );
    tasks.stop(GRACE).await;
}
