// A thread that sends large replies, see fuse-writer.h.
#include "fuse-writer.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace netdrive {

int ReplyWriter::Start(uv_loop_s* loop, int fd, uint32_t jobs_max, void (*on_sent)(void*), void* context) {
  async_ = malloc(uv_handle_size(kUvAsync));
  if (async_ == nullptr) return ENOMEM;
  if (uv_async_init(loop, async_, OnAsync) != 0) {
    free(async_);
    async_ = nullptr;
    return ENOMEM;
  }
  uv_handle_set_data(async_, this);
  // The descriptor's own handle keeps the loop alive as long as it should.
  uv_unref(async_);
  fd_ = fd;
  on_sent_ = on_sent;
  context_ = context;
  jobs_.resize(jobs_max);
  sent_.reserve(jobs_max);
  // Signals are for the threads of Node.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int failure = pthread_create(&thread_, nullptr, Run, this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (failure != 0) {
    uv_close(async_, [](void* handle) { free(handle); });
    async_ = nullptr;
    return failure;
  }
  pthread_setname_np(thread_, "netdrive-fuse");
  is_started_ = true;
  return 0;
}

void ReplyWriter::Push(const Job& job) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs_[(first_ + count_) % jobs_.size()] = job;
    count_++;
  }
  pushed_.notify_one();
}

uint32_t ReplyWriter::TakeSent(Sent* out) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto count = static_cast<uint32_t>(sent_.size());
  for (uint32_t i = 0; i < count; i++) out[i] = sent_[i];
  sent_.clear();
  return count;
}

void ReplyWriter::Stop() {
  if (!is_started_) return;
  is_started_ = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  pushed_.notify_one();
  pthread_join(thread_, nullptr);
  uv_handle_set_data(async_, nullptr);
  uv_close(async_, [](void* handle) { free(handle); });
  async_ = nullptr;
}

void* ReplyWriter::Run(void* argument) {
  auto* writer = static_cast<ReplyWriter*>(argument);
  std::unique_lock<std::mutex> lock(writer->mutex_);
  for (;;) {
    writer->pushed_.wait(lock, [writer] { return writer->count_ > 0 || writer->stopping_; });
    if (writer->stopping_) return nullptr;
    const Job job = writer->jobs_[writer->first_];
    writer->first_ = (writer->first_ + 1) % static_cast<uint32_t>(writer->jobs_.size());
    writer->count_--;
    lock.unlock();
    const int failure = write(writer->fd_, job.data, job.bytes) < 0 ? errno : 0;
    lock.lock();
    writer->sent_.push_back({job.slot, failure});
    if (writer->sent_.size() == 1) uv_async_send(writer->async_);
  }
}

void ReplyWriter::OnAsync(void* handle) {
  auto* writer = static_cast<ReplyWriter*>(uv_handle_get_data(handle));
  if (writer != nullptr && writer->is_started_) writer->on_sent_(writer->context_);
}

}  // namespace netdrive
