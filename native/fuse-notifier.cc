// A thread that tells the kernel to drop pages, see fuse-notifier.h.
#include "fuse-notifier.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

namespace netdrive {
namespace {

// FUSE_DEV_IOC_CLONE of linux/fuse.h, which not every system has.
constexpr unsigned long kCloneDevice = _IOR(229, 0, uint32_t);
// How long Stop waits for a thread that waits itself.
constexpr int kStopSeconds = 1;

}  // namespace

int Notifier::Start(uv_loop_s* loop, int fuse_fd, void (*on_done)(void*), void* context) {
  device_fd_ = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (device_fd_ < 0) return errno;
  auto fd = static_cast<uint32_t>(fuse_fd);
  event_fd_ = ioctl(device_fd_, kCloneDevice, &fd) < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  int failure = event_fd_ < 0 ? errno : 0;
  if (failure == 0) {
    // Signals are for the threads of Node.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failure = pthread_create(&thread_, nullptr, Run, this);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  if (failure == 0) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return own_ != 0; });
    if (own_ < 0) {
      lock.unlock();
      pthread_join(thread_, nullptr);
      failure = ENOSYS;
    }
  }
  // From here on the device is the thread's alone.
  close(device_fd_);
  if (failure == 0) {
    poll_ = malloc(uv_handle_size(kUvPoll));
    failure = poll_ == nullptr || uv_poll_init(loop, poll_, event_fd_) != 0 ? ENOMEM : 0;
  }
  if (failure != 0) {
    if (event_fd_ >= 0) close(event_fd_);
    return failure;
  }
  is_started_ = true;
  on_done_ = on_done;
  context_ = context;
  uv_handle_set_data(poll_, this);
  uv_poll_start(poll_, kUvReadable, OnReadable);
  // The descriptor of the connection keeps the loop alive as long as it should.
  uv_unref(poll_);
  pthread_setname_np(thread_, "netdrive-notify");
  return 0;
}

void Notifier::Push(int32_t ticket, const uint8_t* bytes, uint32_t size) {
  Message message = {ticket, std::min(size, kBytesMax), {}};
  memcpy(message.bytes, bytes, message.size);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    messages_.push_back(message);
  }
  changed_.notify_all();
}

bool Notifier::TakeDone(Done* out) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (done_.empty()) return false;
  *out = done_.front();
  done_.pop_front();
  return true;
}

bool Notifier::Stop() {
  if (!is_started_) return true;
  is_started_ = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  uv_poll_stop(poll_);
  uv_handle_set_data(poll_, nullptr);
  uv_close(poll_, [](void* handle) { free(handle); });
  timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += kStopSeconds;
  if (pthread_timedjoin_np(thread_, nullptr, &until) != 0) {
    pthread_detach(thread_);
    return false;
  }
  close(event_fd_);
  return true;
}

// Leaves this thread with copies of its two descriptors and of no others.
bool Notifier::KeepOwnDescriptors() {
  if (unshare(CLONE_FILES) != 0) return false;
  DIR* folder = opendir("/proc/thread-self/fd");
  if (folder == nullptr) return false;
  std::vector<int> others;
  while (dirent* entry = readdir(folder)) {
    int fd = atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != device_fd_ && fd != event_fd_ && fd != dirfd(folder)) others.push_back(fd);
  }
  closedir(folder);
  for (int fd : others) close(fd);
  return true;
}

void* Notifier::Run(void* argument) {
  auto* notifier = static_cast<Notifier*>(argument);
  const int device_fd = notifier->device_fd_;
  const int event_fd = notifier->event_fd_;
  const bool is_own = notifier->KeepOwnDescriptors();
  std::unique_lock<std::mutex> lock(notifier->mutex_);
  notifier->own_ = is_own ? 1 : -1;
  notifier->changed_.notify_all();
  while (is_own) {
    notifier->changed_.wait(lock, [notifier] { return !notifier->messages_.empty() || notifier->stopping_; });
    if (notifier->stopping_) break;
    const Message message = notifier->messages_.front();
    notifier->messages_.pop_front();
    lock.unlock();
    const int failure = write(device_fd, message.bytes, message.size) < 0 ? errno : 0;
    lock.lock();
    notifier->done_.push_back({message.ticket, failure});
    const uint64_t one = 1;
    if (write(event_fd, &one, sizeof one) < 0) break;
  }
  return nullptr;
}

void Notifier::OnReadable(void* handle, int, int) {
  auto* notifier = static_cast<Notifier*>(uv_handle_get_data(handle));
  if (notifier == nullptr || !notifier->is_started_) return;
  uint64_t count;
  if (read(notifier->event_fd_, &count, sizeof count) > 0) notifier->on_done_(notifier->context_);
}

}  // namespace netdrive
