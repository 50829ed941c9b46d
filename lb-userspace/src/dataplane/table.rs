//! Maglev tables and member lists in their lines of `TABLE`.

use std::ops::Range;

use lb_common::{
    layout::{TABLE_LINE, Vip},
    maglev::{self, Member, NOBODY, Scratch},
};

use super::{arena::Arena, mapping::Elements};

/// A table in the arena, the member list behind it, and what both were built from.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The lines it lies in.
    pub lines: Range<u32>,
    /// Entries; 0 without a member.
    pub size: u32,
    /// Its members, by identity.
    pub members: Vec<Member>,
    /// Entries that lead elsewhere than in the table before it; none where there was none, or one of another size.
    pub moved: Option<u32>,
}

/// The arena has no run of free lines that is long enough.
#[derive(Clone, Copy, Debug)]
pub struct NoRoom;

impl Table {
    /// Builds the table of `members` in fresh lines; none when `before` is just that.
    pub fn build(
        mut members: Vec<Member>,
        before: &Self,
        arena: &mut Arena,
        map: &Elements<[u16; TABLE_LINE]>,
    ) -> Option<Result<Self, NoRoom>> {
        members.sort_by_key(|member| member.identity);
        if members == before.members {
            return None;
        }
        let size = if members.is_empty() { 0 } else { maglev::size_for(members.len()) };
        let Some(lines) = arena.take(lines_for(size) + lines_for(members.len() as u32)) else {
            return Some(Err(NoRoom));
        };
        let mut entries = vec![NOBODY; size as usize];
        maglev::build(&members, &mut entries, &mut vec![Scratch::default(); members.len()]);
        let moved = (before.size == size && size > 0).then(|| before.differences(&entries, map));
        write(map, lines.start, &entries);
        let ids: Vec<u16> = members.iter().map(|member| member.backend).collect();
        write(map, lines.start + lines_for(size), &ids);
        Some(Ok(Self { lines, size, members, moved }))
    }

    /// Entries that differ from `others`.
    fn differences(&self, others: &[u16], map: &Elements<[u16; TABLE_LINE]>) -> u32 {
        let lines = others.chunks(TABLE_LINE).zip(self.lines.clone());
        let differ = lines.map(|(others, line)| {
            let own = map.read(line as usize);
            own.iter().zip(others).filter(|(own, other)| own != other).count() as u32
        });
        differ.sum()
    }

    /// The first entry's number in `TABLE`.
    pub const fn first_entry(&self) -> u32 {
        self.lines.start * TABLE_LINE as u32
    }

    /// The number of the member list's first entry.
    pub const fn first_member(&self) -> u32 {
        self.first_entry() + lines_for(self.size) * TABLE_LINE as u32
    }
}

/// The lines that a row's table and member list lie in.
pub fn lines_of(row: &Vip) -> Range<u32> {
    let first = row.table / TABLE_LINE as u32;
    first..first + lines_for(row.table_size) + lines_for(row.member_count as u32)
}

const fn lines_for(entries: u32) -> u32 {
    entries.div_ceil(TABLE_LINE as u32)
}

fn write(map: &Elements<[u16; TABLE_LINE]>, first: u32, entries: &[u16]) {
    for (line, chunk) in entries.chunks(TABLE_LINE).enumerate() {
        let mut element = [NOBODY; TABLE_LINE];
        element[..chunk.len()].copy_from_slice(chunk);
        map.write(first as usize + line, &element);
    }
}
