// The worker threads: queues, waiting, deferred closing and sweeping.
#include "jobs.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "identity.h"

namespace netdrive {

Pool& Pool::Get() {
  // Never destroyed: detached threads wait on it until the process ends.
  static Pool* pool = new Pool;
  return *pool;
}

// With mutex_ held. Signals are Node's business: workers block them all.
bool Pool::Start() {
  if (threads_ > 0) return true;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int i = 0; i < kThreads; i++) {
    pthread_t thread;
    auto start = [](void* pool) -> void* {
      static_cast<Pool*>(pool)->Work();
      return nullptr;
    };
    if (pthread_create(&thread, nullptr, start, this) != 0) break;
    pthread_setname_np(thread, "netdrive-disk");
    pthread_detach(thread);
    threads_++;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return threads_ > 0;
}

void Pool::Link(Job* job) {
  Queue& queue = job->slow ? slow_ : quick_;
  job->queued = true;
  job->next = nullptr;
  job->previous = queue.last;
  (queue.last == nullptr ? queue.first : queue.last->next) = job;
  queue.last = job;
}

void Pool::Unlink(Job* job) {
  Queue& queue = job->slow ? slow_ : quick_;
  job->queued = false;
  (job->previous == nullptr ? queue.first : job->previous->next) = job->next;
  (job->next == nullptr ? queue.last : job->next->previous) = job->previous;
}

Job* Pool::Next() {
  if (slow_.first != nullptr && slow_running_ < std::max(1, threads_ - kThreadsKept)) return slow_.first;
  return quick_.first;
}

bool Pool::Submit(Job* job) {
  bool wake;
  {
    std::lock_guard lock(mutex_);
    if (!Start()) return false;
    Link(job);
    wake = idle_ > 0;
  }
  if (wake) wake_.notify_one();
  return true;
}

bool Pool::Remove(Job* job) {
  std::lock_guard lock(mutex_);
  if (!job->queued) return false;
  Unlink(job);
  return true;
}

void Pool::CloseLater(int fd, std::atomic<int64_t>* count) {
  bool wake;
  {
    std::lock_guard lock(mutex_);
    closing_.push_back({fd, count});
    // One wake-up for many: a worker that is awake finds the rest.
    wake = idle_ > 0 && closing_.size() == 1;
    Start();
  }
  if (wake) wake_.notify_one();
}

void Pool::WaitForCloses(const std::atomic<int64_t>* count) {
  std::unique_lock lock(mutex_);
  // The caller may be a worker, or the only thread: it helps.
  while (count->load() > 0 && !closing_.empty()) CloseOne(lock);
  closed_.wait(lock, [&] { return count->load() == 0; });
}

void Pool::CloseOne(std::unique_lock<std::mutex>& lock) {
  Closing closing = closing_.back();
  closing_.pop_back();
  lock.unlock();
  // Closing frees blocks and, on some file systems, writes: as the process, not as the last caller.
  TakeIdentity(nullptr, false);
  close(closing.fd);
  lock.lock();
  closing.count->fetch_sub(1);
  closed_.notify_all();
}

void Pool::AddSweep(Sweep sweep) {
  std::lock_guard lock(mutex_);
  sweeps_.push_back(sweep);
  Start();
}

void Pool::RemoveSweep(const void* context) {
  std::unique_lock lock(mutex_);
  std::erase_if(sweeps_, [&](const Sweep& sweep) { return sweep.context == context; });
  closed_.wait(lock, [&] { return sweeping_ != context; });
}

// One idle worker at a time looks at the clock.
void Pool::WaitForWork(std::unique_lock<std::mutex>& lock) {
  idle_++;
  if (sweeps_.empty() || sweeper_waits_) {
    wake_.wait(lock);
    idle_--;
    return;
  }
  sweeper_waits_ = true;
  bool due = wake_.wait_for(lock, std::chrono::seconds(kSweepSeconds)) == std::cv_status::timeout;
  sweeper_waits_ = false;
  idle_--;
  if (due) SweepAll(lock);
}

void Pool::SweepAll(std::unique_lock<std::mutex>& lock) {
  for (size_t i = 0; i < sweeps_.size() && sweeping_ == nullptr; i++) {
    Sweep sweep = sweeps_[i];
    sweeping_ = sweep.context;
    lock.unlock();
    TakeIdentity(nullptr, false);
    sweep.run(sweep.context);
    lock.lock();
    sweeping_ = nullptr;
    closed_.notify_all();
  }
}

void Pool::Work() {
  OwnUmask();
  std::unique_lock lock(mutex_);
  for (;;) {
    Job* job = closing_.size() < kClosingMany ? Next() : nullptr;
    if (job != nullptr) {
      // Not to be looked at after it ran.
      bool slow = job->slow;
      Unlink(job);
      slow_running_ += slow;
      lock.unlock();
      job->run(job);
      lock.lock();
      slow_running_ -= slow;
    } else if (!closing_.empty()) {
      CloseOne(lock);
    } else {
      WaitForWork(lock);
    }
  }
}

}  // namespace netdrive
