//! The catalog: which volumes there are, and who is attached to them.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use store::{PoolInfo, PoolState, Store, VolumeId, VolumeInfo};
use world::{BLOCK_SIZE, Disk};

use crate::{Access, Volume, VolumeError};

/// The volume that an empty name means, if it is there.
pub const DEMO: &str = "demo";

/// The most bytes of a name.
pub const NAME_MAX: usize = 63;

/// The largest volume in bytes: 128 TiB.
pub const SIZE_MAX: u64 = 128 << 40;

/// Checks that `name` can name a volume: 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit.
///
/// # Errors
/// [`VolumeError::BadName`].
pub fn check_name(name: &str) -> Result<(), VolumeError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = name.len() <= NAME_MAX
        && name.bytes().next().is_some_and(is_plain)
        && name
            .bytes()
            .all(|byte| is_plain(byte) || b"._-".contains(&byte));
    if good {
        Ok(())
    } else {
        Err(VolumeError::BadName)
    }
}

/// Checks that a volume can have `size` bytes: a multiple of 512, at least one block and at most [`SIZE_MAX`].
///
/// # Errors
/// [`VolumeError::BadSize`].
pub fn check_size(size: u64) -> Result<(), VolumeError> {
    let good = size.is_multiple_of(512) && (BLOCK_SIZE as u64..=SIZE_MAX).contains(&size);
    if good {
        Ok(())
    } else {
        Err(VolumeError::BadSize)
    }
}

/// The volumes of a store; clones are the same catalog.
pub struct Volumes<D> {
    shared: Rc<Shared<D>>,
}

impl<D> Clone for Volumes<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

struct Shared<D> {
    store: Store<D>,
    /// Volumes with clients, or about to be deleted.
    attached: RefCell<BTreeMap<VolumeId, Rc<Attachment>>>,
}

/// What all clients of one volume share.
pub(crate) struct Attachment {
    pub id: VolumeId,
    pub name: String,
    pub size_bytes: Cell<u64>,
    pub clients: Cell<usize>,
    pub deleted: Cell<bool>,
}

impl<D: Disk + 'static> Volumes<D> {
    /// The catalog of `store`. Make one and clone it: attachments are counted per catalog.
    #[must_use]
    pub fn new(store: Store<D>) -> Self {
        Self {
            shared: Rc::new(Shared {
                store,
                attached: RefCell::default(),
            }),
        }
    }

    /// All volumes, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<VolumeInfo> {
        self.shared.store.volumes()
    }

    /// The volume called `name`.
    ///
    /// # Errors
    /// [`VolumeError::NoVolume`].
    pub fn get(&self, name: &str) -> Result<VolumeInfo, VolumeError> {
        self.shared.store.find(name).ok_or(VolumeError::NoVolume)
    }

    /// The volume that a client means by `name`: that one, or for an empty name `demo`, else the only one.
    ///
    /// # Errors
    /// [`VolumeError::NoVolume`], [`VolumeError::NoDefault`].
    pub fn resolve(&self, name: &str) -> Result<VolumeInfo, VolumeError> {
        if !name.is_empty() {
            return self.get(name);
        }
        if let Some(demo) = self.shared.store.find(DEMO) {
            return Ok(demo);
        }
        let mut all = self.list();
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            _ => Err(VolumeError::NoDefault),
        }
    }

    /// Makes an empty volume; durable when this returns.
    ///
    /// # Errors
    /// A bad or taken name, a bad size, and what the store says.
    pub async fn create(&self, name: &str, size_bytes: u64) -> Result<VolumeInfo, VolumeError> {
        check_name(name)?;
        check_size(size_bytes)?;
        Ok(self.shared.store.create_volume(name, size_bytes).await?)
    }

    /// Makes a volume larger; durable when this returns. Attached clients may use the new room as soon as they know.
    ///
    /// # Errors
    /// No such volume, a bad size, a smaller one, and what the store says.
    pub async fn grow(&self, name: &str, size_bytes: u64) -> Result<VolumeInfo, VolumeError> {
        check_size(size_bytes)?;
        let info = self.get(name)?;
        if size_bytes < info.size_bytes {
            return Err(VolumeError::Shrinks(info.size_bytes));
        }
        let grown = self.shared.store.grow_volume(info.id, size_bytes).await?;
        if let Some(attachment) = self.shared.attached.borrow().get(&info.id) {
            attachment.size_bytes.set(grown.size_bytes);
        }
        Ok(grown)
    }

    /// Deletes a volume; gone at once and durably, its space comes back in the background.
    ///
    /// # Errors
    /// No such volume, [`VolumeError::Attached`] unless `force`, and what the store says; the volume stays then.
    pub async fn delete(&self, name: &str, force: bool) -> Result<(), VolumeError> {
        let info = self.get(name)?;
        let clients = self.clients(&info);
        if clients > 0 && !force {
            return Err(VolumeError::Attached(clients));
        }
        let doomed = Doomed {
            shared: &self.shared,
            attachment: self.shared.attachment(&info),
        };
        doomed.attachment.deleted.set(true);
        let result = self.shared.store.delete_volume(info.id).await;
        // When it failed the volume is still there, so its clients go on.
        doomed.attachment.deleted.set(result.is_ok());
        Ok(result?)
    }

    /// Clients attached to a volume.
    #[must_use]
    pub fn clients(&self, info: &VolumeInfo) -> usize {
        let attached = self.shared.attached.borrow();
        attached
            .get(&info.id)
            .map_or(0, |entry| entry.clients.get())
    }

    /// Attaches a client to the volume that it means by `name` (see [`resolve`](Self::resolve)). A pool that takes no
    /// writes attaches read-only.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), and [`VolumeError::Deleted`] while it is being deleted.
    pub fn attach(&self, name: &str, access: Access) -> Result<Volume<D>, VolumeError> {
        let info = self.resolve(name)?;
        let attachment = self.shared.attachment(&info);
        if attachment.deleted.get() {
            return Err(VolumeError::Deleted);
        }
        let access = match self.pool().state {
            PoolState::Serving => access,
            PoolState::ReadOnly(_) => Access::ReadOnly,
        };
        attachment.clients.set(attachment.clients.get() + 1);
        Ok(Volume::new(self.clone(), attachment, access))
    }

    /// Space and state of the pool.
    #[must_use]
    pub fn pool(&self) -> PoolInfo {
        self.shared.store.pool()
    }

    pub(crate) fn store(&self) -> &Store<D> {
        &self.shared.store
    }
}

impl<D> Volumes<D> {
    pub(crate) fn detach(&self, attachment: &Attachment) {
        attachment.clients.set(attachment.clients.get() - 1);
        self.shared.forget_unused(attachment);
    }
}

impl<D> Shared<D> {
    fn attachment(&self, info: &VolumeInfo) -> Rc<Attachment> {
        let mut attached = self.attached.borrow_mut();
        let entry = attached.entry(info.id).or_insert_with(|| {
            Rc::new(Attachment {
                id: info.id,
                name: info.name.clone(),
                size_bytes: Cell::new(info.size_bytes),
                clients: Cell::new(0),
                deleted: Cell::new(false),
            })
        });
        entry.clone()
    }

    fn forget_unused(&self, attachment: &Attachment) {
        if attachment.clients.get() == 0 {
            self.attached.borrow_mut().remove(&attachment.id);
        }
    }
}

/// A volume while it is being deleted: it has an entry even without clients, so that nobody attaches meanwhile.
struct Doomed<'a, D> {
    shared: &'a Shared<D>,
    attachment: Rc<Attachment>,
}

impl<D> Drop for Doomed<'_, D> {
    fn drop(&mut self) {
        self.shared.forget_unused(&self.attachment);
    }
}
