//! Marks left by PostgreSQL's cache callbacks.
//!
//! Invalidations come in the middle of our own callbacks, whenever PostgreSQL looks at a catalog. So
//! the callbacks here only leave a mark, in memory of their own, and the session looks at the marks
//! before it next uses its caches. PostgreSQL has few places for such callbacks and no way to give
//! one back: they are registered once per backend, however many sessions it sees.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pg_sys::SysCacheIdentifier::{
    NAMESPACEOID, PUBLICATIONNAMESPACEMAP, PUBLICATIONOID, PUBLICATIONRELMAP, TYPEOID,
};
use pgrx::pg_guard;
use pgrx::pg_sys;

/// Marks of one kind that are told apart; with more, everything is taken as changed.
const MARKS_MAX: usize = 64;

/// What has become invalid.
#[derive(Clone)]
pub(super) struct Marks {
    /// Everything.
    pub(super) all: bool,
    /// Which publications there are, or what they publish.
    pub(super) publications: bool,
    relations: Few,
    types: Few,
}

impl Marks {
    const NONE: Marks =
        Marks { all: false, publications: false, relations: Few::NONE, types: Few::NONE };

    /// Oids of tables.
    pub(super) fn relations(&self) -> &[u32] {
        self.relations.as_slice()
    }

    /// Hash values of types, as [`type_hash`] gives them.
    pub(super) fn types(&self) -> &[u32] {
        self.types.as_slice()
    }
}

#[derive(Clone)]
struct Few {
    len: usize,
    items: [u32; MARKS_MAX],
}

impl Few {
    const NONE: Few = Few { len: 0, items: [0; MARKS_MAX] };

    fn as_slice(&self) -> &[u32] {
        self.items.get(..self.len).unwrap_or_default()
    }

    /// False when it is full.
    fn add(&mut self, item: u32) -> bool {
        if self.as_slice().contains(&item) {
            return true;
        }
        let Some(place) = self.items.get_mut(self.len) else { return false };
        *place = item;
        self.len += 1;
        true
    }
}

thread_local! {
    static MARKS: RefCell<Marks> = const { RefCell::new(Marks::NONE) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// There are marks. Asked before every change, and a look at a thread's own variable is a call in a
/// library; a backend has one thread, so that no order is needed.
static MARKED: AtomicBool = AtomicBool::new(false);

/// Takes the marks off, if there are any. Cheap when there are none.
#[inline]
pub(super) fn take() -> Option<Marks> {
    MARKED.load(Relaxed).then(take_all)
}

#[cold]
fn take_all() -> Marks {
    MARKED.store(false, Relaxed);
    MARKS.replace(Marks::NONE)
}

/// Leaves a mark.
fn mark(leave: impl FnOnce(&mut Marks)) {
    MARKS.with_borrow_mut(leave);
    MARKED.store(true, Relaxed);
}

/// Asks PostgreSQL for the callbacks, once per backend.
pub(super) fn register() {
    if REGISTERED.replace(true) {
        return;
    }
    // SAFETY: the callbacks live as long as the library, which is never unloaded
    unsafe {
        let none = pg_sys::Datum::from(0);
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), none);
        for cache in [PUBLICATIONOID, PUBLICATIONRELMAP, PUBLICATIONNAMESPACEMAP] {
            pg_sys::CacheRegisterSyscacheCallback(cache as c_int, Some(publication_changed), none);
        }
        pg_sys::CacheRegisterSyscacheCallback(NAMESPACEOID as c_int, Some(schema_changed), none);
        pg_sys::CacheRegisterSyscacheCallback(TYPEOID as c_int, Some(type_changed), none);
    }
}

/// What [`Marks::types`] holds for a type.
pub(super) fn type_hash(oid: pg_sys::Oid) -> u32 {
    let none = pg_sys::Datum::from(0);
    // SAFETY: the cache has one key, an oid
    unsafe { pg_sys::GetSysCacheHashValue(TYPEOID as c_int, oid.into(), none, none, none) }
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    mark(|marks| {
        // no oid: the whole relation cache was reset
        marks.all |= relation == pg_sys::InvalidOid || !marks.relations.add(relation.to_u32());
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn type_changed(_arg: pg_sys::Datum, _cache: c_int, hash: u32) {
    mark(|marks| marks.all |= hash == 0 || !marks.types.add(hash));
}

#[pg_guard]
unsafe extern "C-unwind" fn schema_changed(_arg: pg_sys::Datum, _cache: c_int, _hash: u32) {
    mark(|marks| marks.all = true);
}

#[pg_guard]
unsafe extern "C-unwind" fn publication_changed(_arg: pg_sys::Datum, _cache: c_int, _hash: u32) {
    mark(|marks| marks.publications = true);
}
