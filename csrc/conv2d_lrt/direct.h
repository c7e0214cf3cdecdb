// Groups of a few channels (depthwise convolutions above all) give a matrix product nothing to work on: here
// lanes run along the rows of the image, and weights are broadcast.
#pragma once
#include "conv2d_lrt.h"

namespace vdk {
namespace VDK_ISA {

bool direct_fits(const ConvShape& shape);
void direct_forward(const ConvForward<float>& args, const Parallel& parallel);
void direct_forward(const ConvForward<double>& args, const Parallel& parallel);
// all but dbias
void direct_backward(const ConvBackward<float>& args, const Parallel& parallel);
void direct_backward(const ConvBackward<double>& args, const Parallel& parallel);

}  // namespace VDK_ISA
}  // namespace vdk
