// Runs a .pte through the C++ runtime of executorch's own wheel: inputs from stdin, outputs to stdout, all as raw bytes in order.
// Without torch, which the Python bindings need and whose aarch64 wheel is 427 MB. usage: executorch_runner MODEL.pte
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include <executorch/extension/data_loader/file_data_loader.h>
#include <executorch/runtime/core/evalue.h>
#include <executorch/runtime/core/hierarchical_allocator.h>
#include <executorch/runtime/executor/memory_manager.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/runtime.h>

using namespace executorch::runtime;
using executorch::extension::FileDataLoader;

static constexpr size_t POOL_BYTES = 64u << 20;

template <typename T>
static T* checked(Result<T>& result, const char* what) {
  if (!result.ok()) {
    fprintf(stderr, "executorch_runner: %s failed with error %d\n", what, static_cast<int>(result.error()));
    exit(1);
  }
  return &result.get();
}

int main(int count, char** arguments) {
  if (count != 2) {
    return 2;
  }
  runtime_init();
  auto loader = FileDataLoader::from(arguments[1]);
  auto program = Program::load(checked(loader, "opening"));
  auto meta = checked(program, "loading")->method_meta("forward");
  const MethodMeta& about = *checked(meta, "reading the method");

  std::vector<std::unique_ptr<uint8_t[]>> memory;
  std::vector<Span<uint8_t>> planned;
  for (size_t i = 0; i < about.num_memory_planned_buffers(); i++) {
    const size_t size = static_cast<size_t>(about.memory_planned_buffer_size(i).get());
    memory.emplace_back(new uint8_t[size]);
    planned.push_back({memory.back().get(), size});
  }
  HierarchicalAllocator activations({planned.data(), planned.size()});
  std::unique_ptr<uint8_t[]> pools[] = {std::unique_ptr<uint8_t[]>(new uint8_t[POOL_BYTES]), std::unique_ptr<uint8_t[]>(new uint8_t[POOL_BYTES])};
  MemoryAllocator structures(POOL_BYTES, pools[0].get()), temporary(POOL_BYTES, pools[1].get());
  MemoryManager manager(&structures, &activations, &temporary);
  auto method = program->load_method("forward", &manager);
  checked(method, "loading the method");

  std::vector<std::vector<uint8_t>> inputs(about.num_inputs());
  while (true) {
    for (size_t i = 0; i < inputs.size(); i++) {
      const auto info = about.input_tensor_meta(i).get();
      inputs[i].resize(info.nbytes());
      if (fread(inputs[i].data(), 1, inputs[i].size(), stdin) != inputs[i].size()) {
        fflush(stdout);  // as many inferences as there are inputs
        std::_Exit(0);  // no destructors: the wheel's were built with another C++ library
      }
      std::vector<executorch::aten::SizesType> sizes(info.sizes().begin(), info.sizes().end());
      std::vector<executorch::aten::DimOrderType> order(info.dim_order().begin(), info.dim_order().end());
      executorch::aten::TensorImpl value(info.scalar_type(), static_cast<ssize_t>(sizes.size()), sizes.data(), inputs[i].data(), order.data());
      if (method->set_input(EValue(executorch::aten::Tensor(&value)), i) != Error::Ok) {
        return 3;
      }
    }
    if (method->execute() != Error::Ok) {
      return 4;
    }
    for (size_t i = 0; i < about.num_outputs(); i++) {
      const auto& output = method->get_output(i).toTensor();
      fwrite(output.const_data_ptr(), 1, output.nbytes(), stdout);
    }
  }
}
