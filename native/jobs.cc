// The worker threads: queues, waiting, deferred closing and sweeping.
#include "jobs.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

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

Pool::Worker* Pool::Choose(const void* kind) {
  if (idle_.empty() || waking_) return nullptr;
  auto same = std::find_if(idle_.rbegin(), idle_.rend(), [&](Worker* worker) { return worker->kind == kind; });
  auto chosen = same == idle_.rend() ? idle_.end() - 1 : same.base() - 1;
  Worker* worker = *chosen;
  idle_.erase(chosen);
  worker->woken = true;
  waking_ = true;
  return worker;
}

bool Pool::Submit(Job* job) {
  Worker* worker;
  {
    std::lock_guard lock(mutex_);
    if (!Start()) return false;
    Link(job);
    worker = Choose(job->kind);
  }
  if (worker != nullptr) worker->wake.notify_one();
  return true;
}

bool Pool::Remove(Job* job) {
  std::lock_guard lock(mutex_);
  if (!job->queued) return false;
  Unlink(job);
  return true;
}

void Pool::CloseLater(int fd, std::atomic<int64_t>* count, bool urgent) { Add({fd, count, {}}, urgent); }

void Pool::RemoveLater(int folder, std::string name, std::atomic<int64_t>* count) {
  Add({folder, count, std::move(name)}, true);
}

void Pool::Add(Closing closing, bool urgent) {
  Worker* worker = nullptr;
  {
    std::lock_guard lock(mutex_);
    closing_.push_back(std::move(closing));
    closing_urgent_ |= urgent;
    closed_.notify_all();
    // One wake-up for many: a worker that is awake finds the rest.
    if (Start() && (urgent || closing_.size() >= kClosingWorthIt)) worker = Choose(nullptr);
  }
  if (worker != nullptr) worker->wake.notify_one();
}

void Pool::WaitForCloses(const std::atomic<int64_t>* count) {
  std::unique_lock lock(mutex_);
  // The caller may be a worker, or the only thread: it helps.
  while (count->load() > 0) {
    if (closing_.empty()) {
      closed_.wait(lock);
    } else {
      CloseOne(lock);
    }
  }
}

void Pool::HelpClosing(const std::atomic<int64_t>* count) {
  std::unique_lock lock(mutex_);
  if (helping_ >= kHelpingMax) return;
  helping_++;
  auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(kHelpingMs);
  bool in_time = true;
  while (in_time && count->load() > 0) {
    if (closing_.empty()) {
      in_time = closed_.wait_until(lock, deadline) == std::cv_status::no_timeout;
    } else {
      CloseOne(lock);
      in_time = std::chrono::steady_clock::now() < deadline;
    }
  }
  helping_--;
}

void Pool::CloseOne(std::unique_lock<std::mutex>& lock) {
  Closing closing = std::move(closing_.back());
  closing_.pop_back();
  if (closing_.empty()) closing_urgent_ = false;
  lock.unlock();
  if (closing.name.empty()) {
    close(closing.fd);
  } else if (TakeIdentity(nullptr, false) == 0) {
    unlinkat(closing.fd, closing.name.c_str(), 0);
  }
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
void Pool::WaitForWork(Worker& worker, std::unique_lock<std::mutex>& lock) {
  worker.woken = false;
  idle_.push_back(&worker);
  auto woken = [&] { return worker.woken; };
  if (sweeps_.empty() || sweeper_waits_) {
    worker.wake.wait(lock, woken);
    waking_ = false;
    return;
  }
  sweeper_waits_ = true;
  bool due = !worker.wake.wait_for(lock, std::chrono::seconds(kSweepSeconds), woken);
  sweeper_waits_ = false;
  if (!due) {
    waking_ = false;
    return;
  }
  std::erase(idle_, &worker);
  SweepAll(lock);
}

void Pool::SweepAll(std::unique_lock<std::mutex>& lock) {
  for (size_t i = 0; i < sweeps_.size() && sweeping_ == nullptr; i++) {
    Sweep sweep = sweeps_[i];
    sweeping_ = sweep.context;
    lock.unlock();
    sweep.run(sweep.context);
    lock.lock();
    sweeping_ = nullptr;
    closed_.notify_all();
  }
}

void Pool::Work() {
  OwnUmask();
  Worker worker;
  std::unique_lock lock(mutex_);
  for (;;) {
    Job* job = closing_.size() < kClosingMany ? Next() : nullptr;
    if (job != nullptr) {
      // Not to be looked at after it ran.
      bool slow = job->slow;
      worker.kind = job->kind;
      Unlink(job);
      slow_running_ += slow;
      Job* next = Next();
      bool more = next != nullptr || closing_urgent_;
      Worker* helper = more ? Choose(next != nullptr ? next->kind : nullptr) : nullptr;
      lock.unlock();
      if (helper != nullptr) helper->wake.notify_one();
      job->run(job);
      lock.lock();
      slow_running_ -= slow;
    } else if (!closing_.empty()) {
      CloseOne(lock);
    } else {
      WaitForWork(worker, lock);
    }
  }
}

}  // namespace netdrive
