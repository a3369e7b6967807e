//! Whole nodes, as processes, under bad input, bad disks and bad timing: every case has its stable code, and loses nothing.

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared by test binaries, each of which uses parts of it")]
mod support;

mod damage;
mod directories;
mod divergence;
mod endings;
mod flush;
mod groups;
mod input;
mod losses;
mod reads;
mod retries;
mod seeds;
mod space;
mod tokens;
mod vacuum;
mod volumes;
