"""Suites that hold a plugin to its protocol's contract.

A plugin's own tests subclass a suite and give it a harness; every test then runs against the plugin:

    from calico_engine.testing.conformance.datastore import DatastoreConformance

    class TestMyStore(DatastoreConformance):
        @pytest.fixture
        def harness(self, tmp_path):
            return MyHarness(tmp_path)

pytest and pytest-asyncio are needed. The suites use nothing of this project but what `calico_engine.plugin`,
`.model` and `.testing` export.
"""
