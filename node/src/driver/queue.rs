//! The queue in front of the database thread: many senders, one receiver that takes what waits.
//!
//! Unlike general-purpose channels it never spins: a waiting receiver sleeps at once. Between two groups it waits for tens to
//! hundreds of microseconds, and a core that spins meanwhile is one that a client or a follower could have used.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

pub struct Queue<T> {
    waiting: Mutex<VecDeque<T>>,
    arrived: Condvar,
    limit: usize,
}

impl<T> Queue<T> {
    pub fn bounded(limit: usize) -> Queue<T> {
        Queue { waiting: Mutex::default(), arrived: Condvar::new(), limit }
    }

    /// Gives the item back when the queue is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= self.limit {
            return Err(item);
        }
        waiting.push_back(item);
        // The receiver only sleeps while the queue is empty.
        if waiting.len() == 1 {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// As [`Queue::push`], whatever the limit: for the few messages that must arrive.
    pub fn push_anyway(&self, item: T) {
        self.waiting.lock().push_back(item);
        self.arrived.notify_one();
    }

    /// Waits for the next item.
    pub fn pop(&self) -> T {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(item) = waiting.pop_front() {
                return item;
            }
            self.arrived.wait(&mut waiting);
        }
    }

    /// Takes items into `taken` as long as `wanted` says so, without waiting.
    pub fn take_while(&self, mut wanted: impl FnMut(&T) -> bool, taken: &mut Vec<T>) {
        let mut waiting = self.waiting.lock();
        let count = waiting.iter().take_while(|item| wanted(item)).count();
        taken.extend(waiting.drain(..count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_sleeping_receiver_gets_all_items_in_order() {
        let queue = Arc::new(Queue::bounded(10_000));
        let sender = queue.clone();
        let receiver = std::thread::spawn(move || (0..10_000).map(|_| queue.pop()).collect::<Vec<u32>>());
        for item in 0..10_000 {
            sender.push(item).unwrap();
        }
        assert_eq!(receiver.join().unwrap(), (0..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_queue_gives_the_item_back_but_takes_what_must_arrive() {
        let queue = Queue::bounded(1);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Err(2));
        queue.push_anyway(3);
        assert_eq!((queue.pop(), queue.pop()), (1, 3));
    }

    #[test]
    fn takes_only_the_wanted_head() {
        let queue = Queue::bounded(10);
        for item in [1, 2, 9, 3] {
            queue.push(item).unwrap();
        }
        let mut taken = vec![];
        queue.take_while(|item| *item < 5, &mut taken);
        assert_eq!(taken, [1, 2]);
        assert_eq!(queue.pop(), 9);
    }
}
