//! The queue in front of the database thread: many senders, one receiver that takes what waits. It is bounded twice, by items
//! and by what they weigh: a few large requests fill a node's memory as well as many small ones.
//!
//! Unlike general-purpose channels it does not spin unasked: a waiting receiver sleeps at once. Between two groups of several
//! clients it waits for tens to hundreds of microseconds, and a core that spins meanwhile is one that a client or a follower could
//! have used. A lone client is the exception, see [`Queue::spin_for`].

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock;

pub struct Queue<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
    limit: Limit,
}

/// What may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub items: usize,
    /// One item is taken whatever it weighs, so that the largest request that is allowed gets through.
    pub weight: usize,
}

struct State<T> {
    /// With their weights.
    waiting: VecDeque<(T, usize)>,
    weight: usize,
    /// The receiver sleeps until so many wait.
    wanted: usize,
}

impl<T> Queue<T> {
    pub fn bounded(limit: Limit) -> Queue<T> {
        let state = State { waiting: VecDeque::new(), weight: 0, wanted: 1 };
        Queue { state: Mutex::new(state), arrived: Condvar::new(), limit }
    }

    /// Gives the item back when the queue is full.
    pub fn push(&self, item: T, weight: usize) -> Result<(), T> {
        let mut state = self.state.lock();
        let too_heavy = state.weight > 0 && state.weight.saturating_add(weight) > self.limit.weight;
        if state.waiting.len() >= self.limit.items || too_heavy {
            return Err(item);
        }
        state.weight = state.weight.saturating_add(weight);
        state.waiting.push_back((item, weight));
        if state.waiting.len() == state.wanted {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// As [`Queue::push`], whatever the limit: for the few messages that must arrive.
    pub fn push_anyway(&self, item: T) {
        let mut state = self.state.lock();
        state.waiting.push_back((item, 0));
        state.wanted = 1;
        self.arrived.notify_one();
    }

    /// Waits for the next item.
    pub fn pop(&self) -> T {
        let mut state = self.state.lock();
        loop {
            if let Some((item, weight)) = state.waiting.pop_front() {
                state.weight -= weight;
                return item;
            }
            state.wanted = 1;
            self.arrived.wait(&mut state);
        }
    }

    /// As [`Queue::pop`], for `limit` at most, without sleeping: who is asleep is woken tens of microseconds after an item came,
    /// most of all on virtual machines, where an idle core has to be started by its host.
    pub fn spin_for(&self, limit: Duration) -> Option<T> {
        /// Pauses of the processor between two looks: less than a microsecond, and the senders find the lock free.
        const PAUSES: u32 = 20;
        let until = clock::instant() + limit;
        while clock::instant() < until {
            if let Some(mut state) = self.state.try_lock()
                && let Some((item, weight)) = state.waiting.pop_front()
            {
                state.weight -= weight;
                return Some(item);
            }
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
        }
        None
    }

    /// As [`Queue::pop`], for `limit` at most.
    pub fn pop_within(&self, limit: Duration) -> Option<T> {
        self.wait_for(1, limit);
        let mut state = self.state.lock();
        let (item, weight) = state.waiting.pop_front()?;
        state.weight -= weight;
        Some(item)
    }

    /// Sleeps until `count` items wait, for `limit` at most, or until something arrives that must.
    pub fn wait_for(&self, count: usize, limit: Duration) {
        let mut state = self.state.lock();
        if state.waiting.len() < count {
            state.wanted = count;
            self.arrived.wait_for(&mut state, limit);
            state.wanted = 1;
        }
    }

    /// Takes items into `taken` as long as `wanted` says so, without waiting.
    pub fn take_while(&self, mut wanted: impl FnMut(&T) -> bool, taken: &mut Vec<T>) {
        let mut state = self.state.lock();
        let count = state.waiting.iter().take_while(|(item, _)| wanted(item)).count();
        let mut taken_weight = 0;
        taken.extend(state.waiting.drain(..count).map(|(item, weight)| {
            taken_weight += weight;
            item
        }));
        state.weight -= taken_weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn of_items(items: usize) -> Limit {
        Limit { items, weight: 1000 }
    }

    #[test]
    fn a_sleeping_receiver_gets_all_items_in_order() {
        let queue = Arc::new(Queue::bounded(of_items(10_000)));
        let sender = queue.clone();
        let receiver = std::thread::spawn(move || (0..10_000).map(|_| queue.pop()).collect::<Vec<u32>>());
        for item in 0..10_000 {
            sender.push(item, 0).unwrap();
        }
        assert_eq!(receiver.join().unwrap(), (0..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_queue_gives_the_item_back_but_takes_what_must_arrive() {
        let queue = Queue::bounded(of_items(1));
        assert_eq!(queue.push(1, 0), Ok(()));
        assert_eq!(queue.push(2, 0), Err(2));
        queue.push_anyway(3);
        assert_eq!((queue.pop(), queue.pop()), (1, 3));
    }

    #[test]
    fn a_receiver_that_waits_for_several_is_woken_by_the_last_of_them() {
        let queue = Arc::new(Queue::bounded(of_items(10)));
        let waiter = queue.clone();
        let thread = std::thread::spawn(move || waiter.wait_for(3, Duration::from_secs(60)));
        for item in 0..3 {
            queue.push(item, 0).unwrap();
        }
        thread.join().unwrap();
        queue.wait_for(3, Duration::from_secs(60));
        queue.wait_for(4, Duration::from_millis(1));
        assert_eq!(queue.pop(), 0);
    }

    #[test]
    fn a_receiver_with_little_time_gets_what_is_there_or_nothing() {
        let queue = Queue::bounded(of_items(10));
        assert_eq!(queue.pop_within(Duration::from_millis(1)), None::<u8>);
        queue.push(1, 1000).unwrap();
        assert_eq!(queue.push(2, 1), Err(2), "full");
        assert_eq!(queue.pop_within(Duration::ZERO), Some(1));
        assert_eq!(queue.push(3, 1000), Ok(()), "what was taken makes room");
    }

    #[test]
    fn a_spinning_receiver_gets_what_comes_meanwhile_or_nothing() {
        let queue = Arc::new(Queue::bounded(of_items(10)));
        assert_eq!(queue.spin_for(Duration::from_millis(1)), None::<u8>);
        let spinner = queue.clone();
        let thread = std::thread::spawn(move || spinner.spin_for(Duration::from_secs(60)));
        queue.push(7, 1000).unwrap();
        assert_eq!(thread.join().unwrap(), Some(7));
        assert_eq!(queue.push(8, 1000), Ok(()), "what was taken makes room");
    }

    #[test]
    fn takes_only_the_wanted_head() {
        let queue = Queue::bounded(of_items(10));
        for item in [1, 2, 9, 3] {
            queue.push(item, 0).unwrap();
        }
        let mut taken = vec![];
        queue.take_while(|item| *item < 5, &mut taken);
        assert_eq!(taken, [1, 2]);
        assert_eq!(queue.pop(), 9);
    }

    #[test]
    fn what_waits_is_bounded_by_weight_too_and_what_was_taken_makes_room() {
        let queue = Queue::bounded(of_items(10));
        assert_eq!(queue.push("larger than the limit", 5000), Ok(()));
        assert_eq!(queue.push("behind it", 1), Err("behind it"));
        queue.push_anyway("must arrive");
        assert_eq!(
            (queue.pop(), queue.push("first", 600), queue.push("second", 500)),
            ("larger than the limit", Ok(()), Err("second"))
        );
        let mut taken = vec![];
        queue.take_while(|_| true, &mut taken);
        assert_eq!(taken, ["must arrive", "first"]);
        assert_eq!(queue.push("second", 500), Ok(()));
    }
}
