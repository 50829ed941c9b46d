//! Room for tables: lines of `TABLE`, handed out first fit.

use std::ops::Range;

/// Which lines are in use.
pub struct Arena {
    used: Vec<bool>,
}

impl Arena {
    /// An arena of so many free lines.
    pub fn new(lines: u32) -> Self {
        Self { used: vec![false; lines as usize] }
    }

    /// Takes the first run of `count` free lines.
    pub fn take(&mut self, count: u32) -> Option<Range<u32>> {
        let count = count as usize;
        let mut start = 0;
        while start + count <= self.used.len() {
            match self.used[start..start + count].iter().rposition(|&used| used) {
                Some(last) => start += last + 1,
                None => {
                    self.used[start..start + count].fill(true);
                    return Some(start as u32..(start + count) as u32);
                }
            }
        }
        None
    }

    /// Marks lines as used that an earlier daemon's tables lie in.
    pub fn claim(&mut self, lines: Range<u32>) {
        self.set(lines, true);
    }

    /// Gives lines back.
    pub fn give_back(&mut self, lines: Range<u32>) {
        self.set(lines, false);
    }

    fn set(&mut self, lines: Range<u32>, used: bool) {
        let end = (lines.end as usize).min(self.used.len());
        if let Some(lines) = self.used.get_mut(lines.start as usize..end) {
            lines.fill(used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Arena;

    #[test]
    fn lines_are_handed_out_first_fit_and_come_back() {
        let mut arena = Arena::new(10);
        assert_eq!(arena.take(4), Some(0..4));
        assert_eq!(arena.take(4), Some(4..8));
        assert_eq!(arena.take(3), None, "two lines are left");
        arena.give_back(0..4);
        assert_eq!(arena.take(3), Some(0..3));
        assert_eq!(arena.take(2), Some(8..10), "line 3 alone is too short");
        assert_eq!(arena.take(0), Some(0..0), "nothing needs no room");
    }
}
