// The worker threads for system calls that may block.
//
// A fixed number of threads of our own, never libuv's, for all disks of the process. The queue is an intrusive list: its bound is the number
// of jobs their owners have. Descriptors that must not be closed on the JavaScript thread (the last reference to a
// deleted file frees its blocks) are closed here too.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace netdrive {

struct Job {
  // Runs on a worker; after it returns the pool does not touch the job any more.
  void (*run)(Job* job) = nullptr;
  Job* previous = nullptr;
  Job* next = nullptr;
  bool queued = false;
  // May wait for the disk for long (fsync): such jobs leave kThreadsKept threads to the others.
  bool slow = false;
  // Jobs with the same one are best run by the same thread: the identity they run with, which is dear to change.
  const void* kind = nullptr;
};

class Pool {
 public:
  static constexpr int kThreads = 8;
  static constexpr int kThreadsKept = 3;
  static constexpr int kSweepSeconds = 10;
  // Descriptors waiting to be closed before closing them goes before jobs.
  static constexpr size_t kClosingMany = 256;
  // How many of those without hurry are worth waking a worker for.
  static constexpr size_t kClosingWorthIt = 64;
  // How many workers wait for closes instead of running jobs, and how long. To free a large file may take longer.
  static constexpr int kHelpingMax = 3;
  static constexpr int kHelpingMs = 1000;

  // The process's pool; it lives until the process ends. Threads start with the first job.
  static Pool& Get();

  // Appends a job. False if no thread could be started.
  bool Submit(Job* job);

  // Takes a job that has not started out of the queue; false if it runs or is done.
  bool Remove(Job* job);

  // Closes `fd`, then decrements `count`: at once if `urgent`, else when a worker is awake anyway, many are waiting, or a sweep is due.
  // With whatever identity the worker has: closing asks nobody for permission.
  void CloseLater(int fd, std::atomic<int64_t>* count, bool urgent);

  // Removes the file `name` of the directory `folder`, with the process's identity, then decrements `count`.
  void RemoveLater(int folder, std::string name, std::atomic<int64_t>* count);

  // Has `sweep` run on an idle worker every kSweepSeconds until it is removed, which waits for it to end.
  struct Sweep {
    void (*run)(void* context);
    void* context;
  };
  void AddSweep(Sweep sweep);
  void RemoveSweep(const void* context);

  // Waits until the descriptors handed over before are closed, and the files removed.
  void WaitForCloses(const std::atomic<int64_t>* count);

  // The same on a worker, for kHelpingMs at most and by kHelpingMax workers at most: the others have jobs to do. Its identity is another one then.
  void HelpClosing(const std::atomic<int64_t>* count);

 private:
  struct Closing {
    int fd;
    std::atomic<int64_t>* count;
    // Not empty: not to be closed, but a file of this name in it to be removed.
    std::string name;
  };

  struct Worker {
    std::condition_variable wake;
    bool woken = false;
    const void* kind = nullptr;
  };
  struct Queue {
    Job* first = nullptr;
    Job* last = nullptr;
  };

  bool Start();
  void Work();
  // Chooses the idle worker that ran such a job last, or else the one that slept for the shortest time, to be woken after the lock is
  // given back. Null if all are awake, or one is on its way: it will wake the next if there is more to do.
  Worker* Choose(const void* kind);
  void WaitForWork(Worker& worker, std::unique_lock<std::mutex>& lock);
  void SweepAll(std::unique_lock<std::mutex>& lock);
  void Add(Closing closing, bool urgent);
  void CloseOne(std::unique_lock<std::mutex>& lock);
  void Link(Job* job);
  void Unlink(Job* job);
  // The next job that may run; null if there is none.
  Job* Next();

  std::mutex mutex_;
  std::condition_variable closed_;
  Queue quick_;
  Queue slow_;
  int slow_running_ = 0;
  std::vector<Closing> closing_;
  // One of them at least is urgent.
  bool closing_urgent_ = false;
  int helping_ = 0;
  std::vector<Sweep> sweeps_;
  const void* sweeping_ = nullptr;
  bool sweeper_waits_ = false;
  int threads_ = 0;
  // A worker was woken and has not come yet.
  bool waking_ = false;
  // The one that became idle last is the last.
  std::vector<Worker*> idle_;
};

}  // namespace netdrive
