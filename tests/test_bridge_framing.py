"""SMP's console framing: what goes in comes out, in any pieces and among any text; what is damaged never comes out."""

from hypothesis import given, settings
from hypothesis import strategies as st
from smp import packet as smp_packet

from firmware_bridge.framing import FrameReader, crc16, encode_frame

PACKETS = st.binary(min_size=8, max_size=600)
TEXT = st.binary(max_size=40).map(lambda b: bytes(c for c in b if c not in (0x04, 0x06)))


def test_crc_is_xmodem():
    assert crc16(b"123456789") == 0x31C3


@given(PACKETS)
def test_frames_are_those_of_the_smp_package(packet):
    assert encode_frame(packet) == b"".join(smp_packet.encode(packet, line_length=128))


@given(st.lists(st.tuples(TEXT, PACKETS), max_size=4), st.integers(1, 50))
def test_packets_come_out_of_any_stream_in_any_pieces(parts, size):
    stream = b"".join(text + encode_frame(packet) for text, packet in parts)
    reader, found = FrameReader(), []
    for start in range(0, len(stream), size):
        found += reader.feed(stream[start : start + size])
    assert found == [packet for _, packet in parts]
    assert reader.damaged == 0
    assert reader.other_bytes == sum(len(text) for text, _ in parts)


@given(PACKETS, st.data())
@settings(max_examples=300)
def test_a_changed_byte_never_changes_a_packet(packet, data):
    frame = bytearray(encode_frame(packet))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] = data.draw(st.integers(0, 255).filter(lambda b: b != frame[at]))
    after = b"the next one"
    found = FrameReader().feed(bytes(frame) + b"\n" + encode_frame(after))
    assert found in ([after], [packet, after])


@given(PACKETS, st.data())
def test_a_cut_frame_costs_only_itself(packet, data):
    frame = encode_frame(packet)
    cut = data.draw(st.integers(0, len(frame) - 1))
    reader = FrameReader()
    after = b"the next one"
    assert reader.feed(frame[:cut] + encode_frame(after)) == [after]
    assert cut < 2 or reader.damaged == 1


@given(st.binary(max_size=3000))
def test_noise_is_no_packet_and_no_error(noise):
    reader = FrameReader()
    assert reader.feed(noise) == []
    assert reader.feed(b"\n" + encode_frame(b"after it")) == [b"after it"]


def test_a_flood_without_line_ends_takes_no_memory():
    reader = FrameReader()
    for _ in range(50):
        reader.feed(b"U" * 1000)
    assert len(reader._line) < 500 and reader.other_bytes > 49_000
