//! Tasks: what is in flight on a shard, each known by a handle that goes stale when it ends.

/// A slot (low 32 bits) and the generation of its use (high 32 bits).
///
/// A slot is used again, a handle is not: what comes late for a task that has ended finds
/// another generation in its slot, is counted, and does nothing.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct TaskHandle(pub u64);

impl TaskHandle {
    /// The handle of a slot's given use.
    pub fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    /// Index into the slab.
    pub fn slot(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    /// Which use of the slot this is.
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Generations have 28 bits, so that the poller finds room for a kind beside a handle.
const MAX_GENERATION: u32 = (1 << 28) - 1;

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// A bounded slab of tasks. Slots are reused last-freed first, and never shrink.
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    bound: usize,
    stale: u64,
}

impl<T> Slab<T> {
    /// A slab for at most `bound` values at a time.
    pub fn new(bound: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), bound, stale: 0 }
    }

    /// Values in it.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many more values it takes.
    pub fn room(&self) -> usize {
        self.bound - self.len()
    }

    /// Puts a value in; `Err` gives it back when the slab is full.
    pub fn insert(&mut self, value: T) -> Result<TaskHandle, T> {
        let mut value = Some(value);
        let handle = self.insert_with(|_| value.take().expect("made once"));
        handle.ok_or_else(|| value.expect("the slab was full"))
    }

    /// Puts in a value that is to know its own handle; `None`: the slab is full.
    pub fn insert_with(&mut self, make: impl FnOnce(TaskHandle) -> T) -> Option<TaskHandle> {
        if self.room() == 0 {
            return None;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 1, value: None });
            (self.slots.len() - 1) as u32
        });
        let handle = TaskHandle::new(index, self.slots[index as usize].generation);
        self.slots[index as usize].value = Some(make(handle));
        Some(handle)
    }

    /// The value of a live handle.
    pub fn get(&self, handle: TaskHandle) -> Option<&T> {
        let slot = self.slots.get(handle.slot())?;
        (slot.generation == handle.generation()).then_some(slot.value.as_ref())?
    }

    /// The value of a live handle, to change.
    pub fn get_mut(&mut self, handle: TaskHandle) -> Option<&mut T> {
        let slot = self.slots.get_mut(handle.slot())?;
        (slot.generation == handle.generation()).then_some(slot.value.as_mut())?
    }

    /// The live handle in a slot.
    pub fn handle_at(&self, slot: usize) -> Option<TaskHandle> {
        let found = self.slots.get(slot)?;
        found.value.as_ref().map(|_| TaskHandle::new(slot as u32, found.generation))
    }

    /// Ends a task: the one terminal transition. A stale handle is counted and gives `None`.
    pub fn remove(&mut self, handle: TaskHandle) -> Option<T> {
        let found = match self.slots.get_mut(handle.slot()) {
            Some(slot) if slot.generation == handle.generation() => slot.value.take().inspect(|_| {
                slot.generation = (slot.generation + 1) & MAX_GENERATION;
            }),
            _ => None,
        };
        match found {
            Some(_) => self.free.push(handle.slot() as u32),
            None => self.stale += 1,
        }
        found
    }

    /// Late handles that found their task gone.
    pub fn stale(&self) -> u64 {
        self.stale
    }

    /// All live values with their handles.
    pub fn iter(&self) -> impl Iterator<Item = (TaskHandle, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let value = slot.value.as_ref()?;
            Some((TaskHandle::new(index as u32, slot.generation), value))
        })
    }

    /// All live values, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_handle_is_a_counted_no_op() {
        let mut slab = Slab::new(2);
        let first = slab.insert("a").unwrap();
        assert_eq!(slab.remove(first), Some("a"));
        let second = slab.insert("b").unwrap();
        assert_eq!(second.slot(), first.slot());
        assert_ne!(second, first);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(first), None);
        assert_eq!((slab.stale(), slab.len()), (1, 1));
        assert_eq!(slab.get(second), Some(&"b"));
    }

    #[test]
    fn the_bound_holds() {
        let mut slab = Slab::new(1);
        let handle = slab.insert(1).unwrap();
        assert_eq!(slab.insert(2), Err(2));
        assert_eq!(slab.room(), 0);
        slab.remove(handle);
        assert!(slab.is_empty());
        assert!(slab.insert(3).is_ok());
    }

    #[test]
    fn unknown_slots_are_harmless() {
        let mut slab: Slab<u8> = Slab::new(1);
        assert_eq!(slab.remove(TaskHandle(u64::MAX)), None);
        assert!(slab.get_mut(TaskHandle(0)).is_none());
    }
}
