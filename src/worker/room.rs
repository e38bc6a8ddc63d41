//! Tasks and what this worker has: cores, memory, graphics memory, disk space, bandwidth (`core::resources`).
//!
//! | the task asks for                                    | what becomes of it                                        |
//! |------------------------------------------------------|-----------------------------------------------------------|
//! | nothing                                              | it is not held up                                         |
//! | what is free                                         | it holds that from before its lease to the end of its call |
//! | what is free within a second                         | it waits so long in the worker's hand, one at a time       |
//! | what this worker has, but not now                    | it is parked in the broker                                |
//! | more than this worker has, not more than another one | it looks for that one, however long that takes            |
//! | more than any worker that lives and serves it        | it looks for [`SEARCH`], then it fails                    |
//!
//! All but the last is uncounted and keeps the task's priority. It is asked before the limits, so that nothing that was
//! taken of these is given back for want of room, and before the lease, so that nobody has a lease while it waits. What
//! can only be told with the lease is asked then: of a guard, which runs nothing unless it takes over, and of what this
//! worker can never hold, so that its condition is looked at first and its end is recorded like any other.
//!
//! The task's message says since when it waits. Once it has waited for long enough room is kept for it, for a while, and
//! meanwhile its message comes back before all that waits, as a guard does: room that is kept for nobody is wasted.
//! Whoever says wrongly that it has waited gets its room sooner, as with a priority; nobody gets more than there is.
//!
//! What a task holds is a [`Share`]; dropped, on whatever path, it is free again and whoever waits in hand looks.

use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::guard::{first_in_line, header, may_have_been_cut};
use super::limit::{HEADER_ADMITTED, is_asked_late, parked};
use super::outcome::Attempt;
use super::patience::Stop;
use super::publish::came_from;
use crate::broker::{Delivery, Outgoing};
use crate::core::clock::Timestamp;
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::id::{Id, TaskKey};
use crate::core::protocol::ProtocolId;
use crate::core::requirements::ResourceRequirements;
use crate::core::resources::{Amounts, Floor, Kind, Totals};
use crate::provider::limit::HOLD;
use crate::store::StoreError;
use crate::wire::task::Task;
use crate::wire::worker::About;

/// How long a task looks for a worker that is large enough while nobody knows of one: about as long as one takes to be
/// started again.
const SEARCH: Duration = Duration::from_secs(10);
/// How long a task waits in hand while another one does: what waits there keeps a place from those that could run.
const HOLD_BESIDE: Duration = Duration::from_millis(100);
/// The shortest and the longest time that a task is parked for.
const PARKED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// So much later than it should a parked task may come back before it is forgotten.
const LATE_MAX: Duration = Duration::from_secs(5);
/// The same while there are workers that do not say what they have: those of an older version.
const SEARCH_BESIDE: Duration = Duration::from_secs(600);
/// How long an answer on who lives is good for.
const FRESH: Duration = Duration::from_secs(2);
/// What a message says longer than this of how long it has waited is not believed.
const WAITED_MAX: Duration = Duration::from_secs(24 * 3600);

/// Since when a task waits for room.
pub(super) const HEADER_ROOM: &str = "gleitzeit-room-since";
/// Since when no worker is known that could ever hold it.
pub(super) const HEADER_NOBODY: &str = "gleitzeit-room-nobody-since";

/// The workers that live, and what they say of themselves.
type Fleet = Arc<[(Id, About)]>;

/// What this worker has and who holds it.
#[derive(Debug)]
pub(super) struct Rooms {
    floor: Mutex<Floor>,
    freed: Notify,
    /// Who waits in hand for as long as that may be.
    hand: Semaphore,
    known: Mutex<Option<(Instant, Fleet)>>,
}

/// What one task holds, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    rooms: Arc<Rooms>,
    amounts: Amounts,
}

/// What is known of a task's room before it has its lease.
#[derive(Debug)]
pub(super) enum Room {
    /// It has what it asks for; `None`: it asks for nothing.
    Taken(Option<Share>),
    /// It is asked again with the lease.
    Later,
    /// It waits in the broker.
    Parked,
}

impl Rooms {
    /// All of it is free.
    pub(super) fn new(totals: Totals) -> Arc<Rooms> {
        let floor = Mutex::new(Floor::new(totals));
        Arc::new(Rooms { floor, freed: Notify::new(), hand: Semaphore::new(1), known: Mutex::default() })
    }

    fn totals(&self) -> Totals {
        *self.lock().totals()
    }

    /// What there is and what is held of it, of each kind that is limited or held.
    pub(super) fn told(&self) -> Map<String, Value> {
        let floor = self.lock();
        let (totals, held) = (*floor.totals(), *floor.held());
        drop(floor);
        let of = |kind: Kind| {
            let mut told = json!({"held": kind.number(held.get(kind))});
            match totals.get(kind) {
                Some(total) => told["total"] = kind.number(total),
                None if held.get(kind) == 0 => return None,
                None => {}
            }
            Some((kind.name().to_owned(), told))
        };
        Kind::ALL.into_iter().filter_map(of).collect()
    }

    /// All of it or nothing, in one step. Who gets nothing is in the line for a while.
    fn take(
        self: &Arc<Rooms>,
        key: &TaskKey,
        wants: &Amounts,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<Share> {
        let until = now.after(HOLD + LATE_MAX);
        let is_taken = self.lock().take(key, wants, since, until, now);
        is_taken.then(|| Share { rooms: Arc::clone(self), amounts: *wants })
    }

    /// Waits in hand: for [`HOLD`] at most, and shorter while another one does, unless room is kept for it. `None`: there
    /// is no room.
    async fn take_in_time(
        self: &Arc<Rooms>,
        key: &TaskKey,
        wants: &Amounts,
        since: Timestamp,
        now: impl Fn() -> Timestamp,
    ) -> Option<Share> {
        if let Some(share) = self.take(key, wants, since, now()) {
            return Some(share);
        }
        let hand = self.hand.try_acquire();
        let is_long = hand.is_ok() || self.lock().keeps_room(key, now());
        let deadline = tokio::time::sleep(if is_long { HOLD } else { HOLD_BESIDE });
        tokio::pin!(deadline);
        loop {
            // Before it is looked at: what is freed in between is not missed.
            let freed = self.freed.notified();
            if let Some(share) = self.take(key, wants, since, now()) {
                return Some(share);
            }
            tokio::select! {
                () = freed => {}
                () = &mut deadline => return None,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Floor> {
        // A panic while it was held cannot have left it half changed: numbers and a list of who waits.
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.rooms.lock().give_back(&self.amounts);
        self.rooms.freed.notify_waiters();
    }
}

impl Shared {
    /// Takes what a task asks for, if that can be told by its message and is free within a second; else parks it.
    pub(super) async fn room(&self, delivery: &Delivery, task: &Task, key: &TaskKey) -> Result<Room, Stop> {
        let wants = self.wants(task);
        if wants.is_nothing() {
            return Ok(Room::Taken(None));
        }
        // Whoever may have ended already, or is too late, must not wait for room to be told so.
        let is_late = task.spec.expires_at.is_some_and(|expires| expires <= self.parts.clock.now());
        let is_later = is_asked_late(delivery) || may_have_been_cut(delivery) || is_late;
        if is_later || !self.rooms.totals().can_hold(&wants) {
            return Ok(Room::Later);
        }
        let since = self.waits_since(delivery);
        if let Some(share) = self.room_in_time(key, &wants, since, &self.abort).await? {
            return Ok(Room::Taken(Some(share)));
        }
        let mut message = self.parked_for_room(delivery, task, key, since);
        if let Some(place) = header(delivery, HEADER_ADMITTED) {
            // What it has taken of limits nobody has read yet: it keeps that.
            message.properties.headers.insert(HEADER_ADMITTED.to_owned(), place.to_owned());
        }
        self.publish(vec![message]).await?;
        Ok(Room::Parked)
    }

    /// What a task holds while its call is made. The inner error: what the attempt is instead.
    pub(super) async fn room_with_lease(
        &self,
        delivery: &Delivery,
        task: &Task,
        key: &TaskKey,
        room: Room,
        cancel: &CancellationToken,
    ) -> Result<Result<Option<Share>, Attempt>, Stop> {
        match room {
            Room::Taken(share) => return Ok(Ok(share)),
            Room::Later | Room::Parked => {}
        }
        let wants = self.wants(task);
        if wants.is_nothing() {
            return Ok(Ok(None));
        }
        if !self.rooms.totals().can_hold(&wants) {
            return Ok(Err(self.too_large(delivery, task, &wants).await?));
        }
        let since = self.waits_since(delivery);
        Ok(match self.room_in_time(key, &wants, since, cancel).await? {
            Some(share) => Ok(Some(share)),
            None => Err(Attempt::NoRoom { why: format!("{wants} is not free"), nobody_since: None }),
        })
    }

    /// Puts a task back that has no room here now: for later, or for another worker.
    pub(super) async fn wait_for_room(
        &self,
        delivery: &Delivery,
        task: &Task,
        key: &TaskKey,
        nobody_since: Option<Timestamp>,
    ) -> Result<(), Stop> {
        let since = self.waits_since(delivery);
        let mut message = self.parked_for_room(delivery, task, key, since);
        if let Some(since) = nobody_since {
            message.properties.headers.insert(HEADER_NOBODY.to_owned(), since.to_string());
        }
        self.publish(vec![message]).await
    }

    async fn room_in_time(
        &self,
        key: &TaskKey,
        wants: &Amounts,
        since: Timestamp,
        stop: &CancellationToken,
    ) -> Result<Option<Share>, Stop> {
        let taking = self.rooms.take_in_time(key, wants, since, || self.parts.clock.now());
        let Some(taken) = stop.run_until_cancelled(taking).await else {
            self.rooms.lock().leave(key);
            return if self.abort.is_cancelled() { Err(Stop::Aborted) } else { Ok(None) };
        };
        Ok(taken)
    }

    /// The message of a task that waits. It comes back sooner the shorter it has waited, and at once before all others
    /// while room is kept for it.
    fn parked_for_room(&self, delivery: &Delivery, task: &Task, key: &TaskKey, since: Timestamp) -> Outgoing {
        let now = self.parts.clock.now();
        let (shortest, longest) = PARKED;
        let mut floor = self.rooms.lock();
        let is_kept = floor.keeps_room(key, now);
        let wait = if is_kept { shortest } else { (now.since(since) / 2).clamp(shortest, longest) };
        let wait = wait.mul_f64(0.75 + 0.5 * self.parts.clock.chance());
        floor.comes_back(key, now.after(wait + LATE_MAX));
        drop(floor);
        let mut message = parked(delivery, task, wait);
        if is_kept {
            let first = first_in_line(delivery, task.clone(), wait);
            (message.body, message.properties.priority) = (first.body, first.properties.priority);
        }
        message.properties.headers.insert(HEADER_ROOM.to_owned(), since.to_string());
        message.properties.headers.remove(HEADER_NOBODY);
        message
    }

    /// What becomes of a task that this worker can never hold.
    async fn too_large(&self, delivery: &Delivery, task: &Task, wants: &Amounts) -> Result<Attempt, Stop> {
        let Some(known) = self.fleet().await else {
            let why =
                format!("{wants} is more than this worker has, and the store does not say who else lives");
            return Ok(Attempt::NoRoom { why, nobody_since: None });
        };
        let protocol = &task.spec.protocol;
        let serves = |about: &About| about.protocols.contains(protocol);
        let serving = || known.iter().filter(|(_, about)| serves(about));
        if let Some((worker, _)) = serving().find(|(_, about)| about.resources.can_hold(wants)) {
            let why = format!("{wants} is more than this worker has; worker {worker} has it");
            return Ok(Attempt::NoRoom { why, nobody_since: None });
        }
        let since = self.told_since(delivery, HEADER_NOBODY);
        let why = || format!("{wants} is more than any worker has that is known");
        if !self.heart.can_tell() {
            // After an outage of the store those who live may not have said so yet.
            return Ok(Attempt::NoRoom { why: why(), nobody_since: None });
        }
        if self.parts.clock.now().since(since) < self.search_time(delivery, serving().count()).await {
            return Ok(Attempt::NoRoom { why: why(), nobody_since: Some(since) });
        }
        let own = (self.session.clone(), self.about());
        let nearest = serving().chain([&own]).max_by(|(_, one), (_, other)| {
            one.resources.nearness(wants).total_cmp(&other.resources.nearness(wants))
        });
        let (worker, about) = nearest.unwrap_or(&own);
        Ok(Attempt::TooLarge { failure: too_large(protocol, wants, worker, &about.resources) })
    }

    /// How long nobody may be known before a task is given up, with so many that serve it and say what they have.
    async fn search_time(&self, delivery: &Delivery, serving: usize) -> Duration {
        if self.parts.providers.is_last_resort() {
            return Duration::ZERO;
        }
        let depth = self.parts.broker.depth(&came_from(delivery)).await;
        let is_everybody = depth.is_ok_and(|depth| depth.consumers <= serving as u64);
        if is_everybody { SEARCH } else { SEARCH_BESIDE }
    }

    /// The workers that live, as they told it themselves; `None`: the store does not say.
    async fn fleet(&self) -> Option<Fleet> {
        let known = self.rooms.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, fleet)) = known
            && at.elapsed() < FRESH
        {
            return Some(fleet);
        }
        let said = match self.parts.store.introduced(self.parts.clock.now()).await {
            Ok(said) => said,
            Err(error) => {
                if matches!(error, StoreError::Unreachable { .. } | StoreError::Unanswered { .. }) {
                    self.heart.missed();
                }
                tracing::warn!(%error, "it is not known which workers live; tasks that are too large for this one wait");
                return None;
            }
        };
        let fleet: Fleet =
            said.into_iter().filter_map(|(id, about)| Some((id, About::decode(&about)?))).collect();
        let known = Some((Instant::now(), Arc::clone(&fleet)));
        *self.rooms.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Some(fleet)
    }

    /// What this worker says of itself.
    pub(super) fn about(&self) -> About {
        About { protocols: self.settings.protocols.clone(), resources: self.rooms.totals() }
    }

    /// What a task asks for: each kind by its own word, else by its method's. What stands for other tasks asks for
    /// nothing itself.
    fn wants(&self, task: &Task) -> Amounts {
        if task.for_each.is_some() || task.spec.is_workflow() {
            return Amounts::default();
        }
        Amounts::of(&self.needs(task))
    }

    /// What a task requires: each by its own word, else by its method's.
    pub(super) fn needs(&self, task: &Task) -> ResourceRequirements {
        let spec = &task.spec;
        let method = self.parts.protocols.method(&spec.protocol, &spec.method).ok();
        let of_method = method.and_then(|method| method.spec.resource_requirements.as_ref());
        let own = spec.resource_requirements.clone().unwrap_or_default();
        match of_method {
            Some(method) => own.or(method),
            None => own,
        }
    }

    /// Since when a task waits for room, by its message; now, if it has not waited yet.
    fn waits_since(&self, delivery: &Delivery) -> Timestamp {
        self.told_since(delivery, HEADER_ROOM)
    }

    /// Since when something is so, by its message; now, if that does not say.
    fn told_since(&self, delivery: &Delivery, name: &str) -> Timestamp {
        let now = self.parts.clock.now();
        let told: Option<Timestamp> = header(delivery, name).and_then(|since| since.parse().ok());
        told.filter(|since| *since <= now && now.since(*since) <= WAITED_MAX).unwrap_or(now)
    }
}

fn too_large(protocol: &ProtocolId, wants: &Amounts, worker: &Id, has: &Totals) -> Failure {
    let lacking: Vec<String> = has
        .lacking(wants)
        .map(|kind| format!("{} {}", kind.name(), kind.number(has.get(kind).unwrap_or(0))))
        .collect();
    let text = format!(
        "no worker of {protocol} that lives has what the task asks for: {wants}; worker {worker} comes nearest, with {}",
        lacking.join(", ")
    );
    let asked = Kind::ALL.into_iter().filter(|kind| wants.get(*kind) > 0);
    let asked: Map<String, Value> =
        asked.map(|kind| (kind.name().to_owned(), kind.number(wants.get(kind)))).collect();
    let failure = Failure::new(Code::ResourceNotAvailable, text).with("asked", asked);
    failure.with("nearest", has.to_json()).with("worker", worker.as_str()).final_now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_share_is_given_back_when_whoever_has_it_panics_and_who_waits_is_woken() {
        let rooms = Rooms::new(Totals::default().with(Kind::Memory, Some(100)));
        let wants = Amounts::of(&ResourceRequirements { memory_mb: Some(60), ..Default::default() });
        let key = |name: &str| TaskKey::alone(Id::parse(name).expect("valid"));
        let now = Timestamp::from_millis(0);
        let share = rooms.take(&key("a"), &wants, now, now).expect("it is free");
        assert!(rooms.take(&key("b"), &wants, now, now).is_none());
        assert_eq!(Value::Object(rooms.told()), json!({"memory_mb": {"total": 100, "held": 60}}));
        let freed = rooms.freed.notified();
        let mut panics = tokio::task::JoinSet::new();
        panics.spawn(async move {
            let _share = share;
            panic!("as asked");
        });
        assert!(panics.join_next().await.expect("a task").expect_err("it panics").is_panic());
        freed.await;
        assert!(rooms.take(&key("b"), &wants, now, now).is_some());
        assert_eq!(Value::Object(rooms.told()), json!({"memory_mb": {"total": 100, "held": 0}}));
    }

    #[tokio::test(start_paused = true)]
    async fn one_waits_in_hand_and_others_beside_it_make_place_soon() {
        let rooms = Rooms::new(Totals::default().with(Kind::Memory, Some(100)));
        let wants = Amounts::of(&ResourceRequirements { memory_mb: Some(60), ..Default::default() });
        let (since, began) = (Timestamp::from_millis(0), Instant::now());
        let key = |name: &str| TaskKey::alone(Id::parse(name).expect("valid"));
        let held = rooms.take(&key("held"), &wants, since, since).expect("it is free");
        let waits = async |name: &str| {
            let share = rooms.take_in_time(&key(name), &wants, since, || since).await;
            (share.is_some(), began.elapsed())
        };
        let (one, two, three) = tokio::join!(waits("a"), waits("b"), waits("c"));
        assert_eq!((one, two, three), ((false, HOLD), (false, HOLD_BESIDE), (false, HOLD_BESIDE)));
        // Whoever waits gets what comes free.
        let free = async {
            tokio::time::sleep(HOLD / 2).await;
            drop(held);
        };
        assert!(tokio::join!(waits("a"), free).0.0);
    }
}
